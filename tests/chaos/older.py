"""The release before this one, for deploys and rollbacks under load: this code with changes taken back.

Until then HoldCaptured had no `final`, BalanceAdjusted no `corrects`, and OverdraftLimitSet called its
limit `limit`. When other payloads change, these edits are the place to say what they were before.
"""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("ledger", "projections", "audit", "config", "templates", "manage.py")

EDITS: dict[str, list[tuple[str, str]]] = {
    "ledger/domain/events.py": [
        ('    schema_version = 2\n    kind = "capture"\n', '    kind = "capture"\n'),
        ("    final: bool\n", ""),
        ('    schema_version = 2\n    kind = "adjustment"\n', '    kind = "adjustment"\n'),
        ("    corrects: str\n", ""),
        ('    schema_version = 2\n    kind = "limit"\n', '    kind = "limit"\n'),
        ("    overdraft_limit: int\n\n\nclass HolderChanged", "    limit: int\n\n\nclass HolderChanged"),
    ],
    "ledger/domain/state.py": [
        ("0 if event.final else hold.amount - event.amount", "hold.amount - event.amount"),
        ("overdraft_limit=event.overdraft_limit)\n        case e.HolderChanged",
         "overdraft_limit=event.limit)\n        case e.HolderChanged"),
    ],
    "ledger/domain/decide.py": [
        ("                final=command.final,\n", ""),
        ("        corrects=command.corrects,\n", ""),
        ("e.OverdraftLimitSet(overdraft_limit=limit)", "e.OverdraftLimitSet(limit=limit)"),
    ],
    "ledger/upcasters.py": [
        ('@upcaster("BalanceAdjusted", 1)\n', ""),
        ('@upcaster("HoldCaptured", 1)\n', ""),
        ('@upcaster("OverdraftLimitSet", 1)\n', ""),
    ],
    "ledger/api/serializers.py": [
        ("    final = FlagField(required=False)\n", ""),
        ("    corrects = IdField(required=False)\n", ""),
    ],
}  # fmt: skip
"""File to pairs of what stands there now, once, and what stood there before."""


def make(folder: Path) -> Path:
    """Write the older release into `folder`; its tree can run `manage.py` and everything else."""
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(
                ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / part, folder / part)
    for name, edits in EDITS.items():
        path = folder / name
        text = path.read_text()
        for now, before in edits:
            assert text.count(now) == 1, f"{name} has {now!r} {text.count(now)} times"
            text = text.replace(now, before)
        path.write_text(text)
    return folder
