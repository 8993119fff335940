"""Finds the columns of a parquet file that hold bytes, such as encoded images, without reading them."""

from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError


def held_bytes(path: Path) -> dict[str, bool]:
    """Whether each column holds bytes, or structures with bytes. Raises UserError for a damaged file."""
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet

    def holds(kind: Any) -> bool:
        within = [kind.field(i) for i in range(kind.num_fields)] if pa.types.is_struct(kind) else []
        return any(map(pa.types.is_binary, (kind, *(f.type for f in within)))) or pa.types.is_large_binary(kind)

    try:
        return {field.name: holds(field.type) for field in parquet.read_schema(path)}
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            "--data", f"{path} is damaged or not parquet: {str(error).splitlines()[0]}", "write it again"
        ) from None
