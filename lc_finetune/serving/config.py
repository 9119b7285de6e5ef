"""What a server is told."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from lc_finetune.inference.backends import BackendName, Dtype

API_KEY = "LC_FINETUNE_API_KEY"
"""The environment variable that holds the key which requests have to show."""


class Limits(BaseModel):
    """What a request may ask at the most. One that asks more is refused whole: nothing is ever cut off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_body_bytes: int = Field(default=1 << 20, ge=1, description="Size of a request's body.")
    max_text_characters: int = Field(default=50_000, ge=1, description="Length of one text.")
    max_inputs: int = Field(default=256, ge=1, description="Inputs of one request to /predict.")
    max_questions: int = Field(default=64, ge=1, description="Questions of one request to /v1/systemone.")


class ServeConfig(Limits):
    """What `serve` is told."""

    checkpoints: tuple[str, ...] = Field(
        min_length=1,
        description="Checkpoint folders, URLs, or Hub ids, each as CHECKPOINT or NAME=CHECKPOINT; the name of a folder "
        "is its last part.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    without_key: bool = Field(
        default=False, description=f"Listen beyond this machine though {API_KEY} is not set: anybody may ask."
    )
    questions: Path | None = Field(
        default=None,
        description="JSON file that says how /v1/systemone answers: id of a question → classifier, labels, reads.",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N or mps.")
    dtype: Dtype = Field(default="auto", description="auto is float32 on CPU and MPS, bfloat16 on CUDA.")
    backend: BackendName = Field(default="auto", description="auto is the fastest that the folder holds.")
