"""What a playground is told."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from lc_finetune.inference.backends import BackendName, Dtype


class PlaygroundConfig(BaseModel):
    """What `playground` is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str = Field(description="A checkpoint folder, a URL, or a Hub id.")
    corrections: Path = Field(
        default=Path("corrections.jsonl"), description="JSONL file that corrected rows are added to, as training reads."
    )
    port: int = Field(
        default=7860, ge=0, le=65535, description="Port of this machine to listen on; 0 takes a free one."
    )
    max_text_characters: int = Field(default=50_000, ge=1, description="Length of one text.")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N or mps.")
    dtype: Dtype = Field(default="auto", description="auto is float32 on CPU and MPS, bfloat16 on CUDA.")
    backend: BackendName = Field(default="auto", description="auto is the fastest that the folder holds.")
