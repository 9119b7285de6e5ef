"""A text classifier by transformers' own Trainer, as one would write it: what our training is timed beside.

    python -m benchmarks.plain_trainer --train-file F --validation-file F --test-file F --base-model D --output-dir D …

Files have the columns `text` and `label`. Batches are padded to their longest row and grouped by length; the epoch with
the best accuracy on the validation rows is kept. The last line is JSON: seconds in the Trainer, epochs, accuracy.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from datasets import Features, Value, load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)


def train(options: argparse.Namespace) -> dict[str, float]:
    """Train, and measure on the test file."""
    set_seed(options.seed)
    files = {part: getattr(options, f"{part}_file") for part in ("train", "validation", "test")}
    columns = Features({"text": Value("string"), "label": Value("string")})
    data = load_dataset(
        "csv", data_files=files, features=columns, cache_dir=f"{options.output_dir}/cache", keep_default_na=False
    )
    names = {name: column for column, name in enumerate(sorted(set(data["train"]["label"])))}
    tokenizer: Any = AutoTokenizer.from_pretrained(options.base_model)

    def encode(rows: dict[str, list[str]]) -> dict[str, Any]:
        encoded = tokenizer(rows["text"], truncation=True, max_length=options.max_length)
        return {**encoded, "labels": [names[label] for label in rows["label"]]}

    data = data.map(encode, batched=True, remove_columns=["text", "label"])
    trainer = Trainer(
        model=AutoModelForSequenceClassification.from_pretrained(options.base_model, num_labels=len(names)),
        args=TrainingArguments(
            output_dir=options.output_dir, num_train_epochs=options.epochs, learning_rate=options.learning_rate,
            per_device_train_batch_size=options.batch_size, per_device_eval_batch_size=64, weight_decay=0.01,
            warmup_steps=0.1, train_sampling_strategy="group_by_length", bf16=options.bf16, use_cpu=options.use_cpu,
            eval_strategy="epoch", save_strategy="epoch", logging_strategy="epoch", save_total_limit=2,
            load_best_model_at_end=True, metric_for_best_model="accuracy", seed=options.seed, report_to="none",
        ),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda made: {"accuracy": float((made.predictions.argmax(-1) == made.label_ids).mean())},
    )  # fmt: skip
    done = trainer.train()
    trainer.save_model()
    accuracy = trainer.evaluate(data["test"])["eval_accuracy"]
    return {"seconds": done.metrics["train_runtime"], "epochs": done.metrics["epoch"], "accuracy": accuracy}


def main(argv: Sequence[str] | None = None) -> None:
    """Train, and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plain_trainer")
    for name in ("train-file", "validation-file", "test-file", "base-model", "output-dir"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--epochs", type=float, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--use-cpu", action="store_true")
    print(json.dumps(train(parser.parse_args(argv))))


if __name__ == "__main__":
    main()
