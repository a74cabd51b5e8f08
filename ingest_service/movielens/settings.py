"""What the steps of MovieLens need to know beside the settings of every run."""

from typing import Literal, Self

from pydantic import Field

from ingest_service.config import Settings


class MovieLensSettings(Settings):
    """The same names serve in TOML, and as INGEST_NAME in the environment."""

    gcs_bucket_name: str = Field("", validation_alias="GCS_BUCKET_NAME")
    movielens_url: str = Field(
        "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip", validation_alias="MOVIELENS_URL"
    )
    movielens_zip_filename: str = Field("", validation_alias="MOVIELENS_ZIP_FILENAME")
    movielens_sha256: str = Field("", pattern=r"^([0-9a-fA-F]{64})?$")
    movie_id_map: str = Field("movie_id_map.json", min_length=1)
    hf_model_name: str = Field("sentence-transformers/all-MiniLM-L6-v2", min_length=1, validation_alias="HF_MODEL_NAME")
    hf_device: str = Field("cpu", pattern=r"^(cpu|cuda(:[0-9]+)?)$", validation_alias="HF_DEVICE")
    embedding_batch_size: int = Field(32, ge=1, le=4096, validation_alias="EMBEDDING_BATCH_SIZE")
    embedding_engine: Literal["onnx", "sentence-transformers"] = "onnx"
    embedding_format: Literal["list", "vector"] = "list"

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """These settings as loaded; where they were made without ours, with what the environment says."""
        return settings if isinstance(settings, cls) else cls(**settings.model_dump())
