"""Hugging Face's Trainer with our losses and loaders, on tiny models of random parameters: nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from feed.data import write_training_set
from torch import Tensor, nn
from training.batches import MemoryLoader, rows

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_DISABLED"] = "true"

from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PretrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from sparkimb.errors import SparkimbError
from sparkimb.feed.loader import Batch
from sparkimb.feed.torch import make_torch_loader
from sparkimb.training.huggingface import imbalanced_trainer
from sparkimb.training.losses import FocalLoss, LDAMLoss, LogitAdjustedLoss, WeightedCrossEntropyLoss

TINY = {
    "vocab_size": 30,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 16,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def arguments(directory: Path, kind: type[TrainingArguments] = TrainingArguments, **options: Any) -> TrainingArguments:
    given = {"per_device_train_batch_size": 8, "num_train_epochs": 1, "save_strategy": "no", "seed": 3}
    given |= {"optim": "sgd", "learning_rate": 0.1}  # Adam makes much of differences in the last digit
    return kind(
        str(directory), report_to=[], use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False, **(given | options)
    )


def sequences(n: int = 48, weight: bool = False) -> list[dict[str, Any]]:
    """Sequences of 8 tokens; those of class 1, one in six, have larger tokens."""
    g = torch.Generator().manual_seed(0)
    made = []
    for i in range(n):
        label = int(i % 6 == 0)
        tokens = torch.randint(15 * label, 15 + 15 * label, (8,), generator=g)
        made.append({"input_ids": tokens, "labels": label} | ({"weight": 1.0 + i % 3} if weight else {}))
    return made


def bert(**options: Any) -> BertForSequenceClassification:
    torch.manual_seed(1)
    return BertForSequenceClassification(BertConfig(**TINY, num_labels=2, **options))


class Recorded(nn.Module):
    """A loss that remembers what it was called with."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self.calls: list[tuple[Tensor, ...]] = []

    def forward(self, *given: Tensor) -> Tensor:
        self.calls.append(tuple(x.detach().clone() for x in given))
        return self.loss(*given)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)


def trained(
    directory: Path, loss: nn.Module | None, *, data: list[dict[str, Any]] | None = None, **options: Any
) -> Any:
    cls = Trainer if loss is None else imbalanced_trainer(loss=loss)
    if data is not None and "weight" in data[0]:
        options["remove_unused_columns"] = False
    trainer = cls(bert(), arguments(directory, **options), train_dataset=data or sequences())
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    "options",
    # not accumulation alone, where the Trainer of transformers 5.24 adds up BERT's means instead of averaging them
    [{}, {"label_smoothing_factor": 0.2}, {"gradient_accumulation_steps": 4, "label_smoothing_factor": 0.2}],
    ids=str,
)
def test_with_plain_cross_entropy_it_is_the_trainer(tmp_path: Path, options: dict[str, Any]) -> None:
    theirs = trained(tmp_path / "theirs", None, logging_steps=1, **options)
    ours = trained(tmp_path / "ours", WeightedCrossEntropyLoss(), logging_steps=1, **options)
    assert_same(state(ours.model), state(theirs.model))
    found, expected = ([entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (ours, theirs))
    assert found == pytest.approx(expected, rel=1e-4)


def test_accumulated_batches_count_by_their_rows(tmp_path: Path) -> None:
    """48 rows at once are 6 batches of 8, and 5 batches of 10 of which the last has 8."""
    loss = FocalLoss()
    whole = trained(tmp_path, loss, per_device_train_batch_size=48)
    for size in (8, 10):
        parts = trained(tmp_path, loss, per_device_train_batch_size=size, gradient_accumulation_steps=6)
        assert parts.state.global_step == 1
        assert_same(state(parts.model), state(whole.model))


def test_the_loss_is_used_in_training_and_evaluation(tmp_path: Path) -> None:
    loss = Recorded(LogitAdjustedLoss([40, 8]))
    trainer = imbalanced_trainer(loss=loss)(bert(), arguments(tmp_path), train_dataset=sequences())
    trainer.train()
    assert len(loss.calls) == 6
    data = sequences(12)
    found = trainer.evaluate(data)["eval_loss"]
    logits = torch.from_numpy(trainer.predict(data).predictions)
    labels = torch.tensor([row["labels"] for row in data])
    assert found == pytest.approx(float(LogitAdjustedLoss([40, 8])(logits, labels)), rel=1e-5)


def test_weights_reach_the_loss_and_not_the_model(tmp_path: Path) -> None:
    loss = Recorded(FocalLoss())
    trained(tmp_path, loss, data=sequences(weight=True))
    assert all(len(call) == 3 for call in loss.calls)
    assert sorted(torch.cat([call[2] for call in loss.calls]).tolist()) == sorted([1.0, 2.0, 3.0] * 16)


def test_tokens_that_do_not_count_are_left_out(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = BertForTokenClassification(BertConfig(**TINY, num_labels=3))
    data = []
    for i, row in enumerate(sequences(16)):
        labels = row["input_ids"] % 3
        labels[: i % 5] = -100
        data.append({"input_ids": row["input_ids"], "labels": labels})
    loss = Recorded(nn.CrossEntropyLoss())
    before = state(model)
    args = arguments(tmp_path, gradient_accumulation_steps=2)
    imbalanced_trainer(loss=loss)(model, args, train_dataset=data).train()
    counted = sum(int((row["labels"] != -100).sum()) for row in data)
    assert sum(len(call[1]) for call in loss.calls) == counted
    # and an accumulated step is of all tokens alike, as the Trainer's is where it smooths labels
    args = arguments(tmp_path, gradient_accumulation_steps=2, label_smoothing_factor=0.1)
    found = []
    for cls in (imbalanced_trainer(loss=nn.CrossEntropyLoss()), Trainer):
        model.load_state_dict(before)
        cls(model, args, train_dataset=data).train()
        found.append(state(model))
    assert_same(*found)


def test_a_batch_without_labels_that_count_gives_no_gradient(tmp_path: Path) -> None:
    data = [{"input_ids": torch.arange(8), "labels": -100} for _ in range(8)]
    model = bert()
    before = state(model)
    args = arguments(tmp_path, weight_decay=0.0, max_grad_norm=0.0)
    result = imbalanced_trainer(loss=FocalLoss())(model, args, train_dataset=data).train()
    assert_same(before, state(model))
    assert not result.training_loss > 0


# ---- the loader


class Table(PreTrainedModel):
    """A linear model of a table's rows."""

    config_class = PretrainedConfig
    main_input_name = "features"

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(4, 1)
        self.post_init()

    def forward(self, features: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": self.classifier(self.dropout(features))}


class Watched(MemoryLoader):
    """Remembers the epochs it was told, and the batches it gave."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.epochs: list[int] = []
        self.sums: list[float] = []

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.epochs.append(epoch)

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            self.sums.append(float(batch.features.sum()))
            yield batch


def on_loader(directory: Path, loader: Watched, loss: nn.Module, resume: Path | None = None, **options: Any) -> Any:
    torch.manual_seed(1)
    args = arguments(directory, **({"num_train_epochs": 3, "learning_rate": 0.01} | options))
    trainer = imbalanced_trainer(loss=loss, loader=loader)(Table(PretrainedConfig()), args)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return trainer


def test_batches_are_the_loaders_epoch_after_epoch(tmp_path: Path) -> None:
    loader, loss = Watched(rows(weights=True), 100), Recorded(LDAMLoss([540, 60], drw_epoch=1))
    epochs: list[int] = []
    loss.set_epoch = lambda epoch: (epochs.append(epoch), loss.loss.set_epoch(epoch))  # type: ignore[assignment]
    trainer = on_loader(tmp_path, loader, loss)
    assert trainer.state.global_step == 18
    assert loader.epochs == epochs == [0, 1, 2]
    expected = []
    for epoch in range(3):
        fresh = MemoryLoader(rows(weights=True), 100)
        fresh.set_epoch(epoch)
        expected += [float(batch.features.sum()) for batch in fresh]
    assert loader.sums == expected
    assert all(torch.equal(call[2], 1 + call[1].float()) for call in loss.calls)
    assert loss.loss.epoch == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("saved", [6, 8])  # at the end of an epoch, and in the middle of one
def test_a_saved_training_goes_on_exactly(tmp_path: Path, saved: int) -> None:
    saving = {"save_strategy": "steps", "save_steps": saved}
    straight = on_loader(tmp_path, Watched(rows(), 100), FocalLoss(), **saving)
    loader = Watched(rows(), 100)
    torch.manual_seed(99)
    resumed = on_loader(tmp_path, loader, FocalLoss(), resume=tmp_path / f"checkpoint-{saved}", **saving)
    assert loader.epochs == [1, 2]
    assert resumed.state.global_step == straight.state.global_step == 18
    expected = state(straight.model)
    assert all(torch.equal(value, expected[name]) for name, value in state(resumed.model).items())


def test_the_feeds_loader_gives_balanced_batches(tmp_path: Path) -> None:
    write_training_set(tmp_path / "set", (900, 100))
    loss = Recorded(FocalLoss())
    with make_torch_loader(str(tmp_path / "set"), 64, balance="uniform") as loader:
        cls = imbalanced_trainer(loss=loss, loader=loader)
        trainer = cls(Table(PretrainedConfig()), arguments(tmp_path, num_train_epochs=2))
        trainer.train()
        assert trainer.num_examples(trainer.get_train_dataloader()) == 1000
    assert trainer.state.global_step == 2 * 16
    assert all(abs(2 * int(labels.sum()) - len(labels)) <= 2 for _, labels in loss.calls)


def test_a_loader_of_other_ranks_is_refused(tmp_path: Path) -> None:
    loader = MemoryLoader(rows())
    loader.rank, loader.world_size = 1, 2  # type: ignore[attr-defined]
    with pytest.raises(SparkimbError, match="loader of rank 0 of 1 was made for rank 1 of 2"):
        imbalanced_trainer(loss=FocalLoss(), loader=loader)(Table(PretrainedConfig()), arguments(tmp_path))


@pytest.mark.parametrize("across", [True, False])
def test_two_gpus_of_one_process_count_once(tmp_path: Path, across: bool) -> None:
    """Without GPUs, DataParallel is the model itself; the Trainer's arithmetic is as with them."""

    class TwoGpus(TrainingArguments):
        n_gpu = 2

    loss, states = FocalLoss(), []
    for kind, size in ((TrainingArguments, 8), (TwoGpus, 4)):  # a batch is of both
        args = arguments(
            tmp_path, kind, per_device_train_batch_size=size, average_tokens_across_devices=across, logging_steps=1
        )
        trainer = imbalanced_trainer(loss=loss)(bert(), args, train_dataset=sequences())
        trainer.train()
        states.append((state(trainer.model), [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]))
    assert_same(states[0][0], states[1][0])
    assert states[0][1] == pytest.approx(states[1][1], rel=1e-4)


def test_images_and_inputs_of_your_own(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    images = Batch(torch.rand(40, 1, 8, 8, generator=g), torch.arange(40) % 2, None)
    torch.manual_seed(1)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4, num_channels=1, num_labels=2))
    result = imbalanced_trainer(loss=FocalLoss(), loader=MemoryLoader(images, 20))(model, arguments(tmp_path)).train()
    assert result.global_step == 2

    def to_inputs(batch: Batch) -> dict[str, Any]:
        return {"input_ids": batch.features.abs().long() % 30, "labels": batch.labels}

    cls = imbalanced_trainer(loss=FocalLoss(), loader=MemoryLoader(rows(), 200), to_inputs=to_inputs)
    assert cls(bert(), arguments(tmp_path)).train().global_step == 3


def test_a_trainer_of_your_own_and_its_refusals(tmp_path: Path) -> None:
    class Mine(Trainer):
        pass

    args = arguments(tmp_path)
    assert issubclass(imbalanced_trainer(Mine, loss=FocalLoss()), Mine)
    with pytest.raises(SparkimbError, match="reduction is 'sum'"):
        imbalanced_trainer(loss=FocalLoss(reduction="sum"))
    with pytest.raises(SparkimbError, match="compute_loss_func"):
        imbalanced_trainer(loss=FocalLoss())(bert(), args, compute_loss_func=lambda *_: None)
    with pytest.raises(SparkimbError, match="train_dataset"):
        imbalanced_trainer(loss=FocalLoss(), loader=MemoryLoader(rows()))(bert(), args, train_dataset=sequences())
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=30, n_positions=16, n_embd=8, n_layer=1, n_head=2))
    with pytest.raises(SparkimbError, match="GPT2LMHeadModel predicts the next token"):
        imbalanced_trainer(loss=FocalLoss())(gpt, args, train_dataset=sequences())
