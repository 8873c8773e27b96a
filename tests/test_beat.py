"""The clock of the machine that runs beat is set back."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.conf import settings

from config.celery import SteadyScheduler, app


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SteadyScheduler]:
    monkeypatch.setattr(app, "now", lambda: datetime.now(UTC))
    scheduler = SteadyScheduler(app=app, schedule_filename=str(tmp_path / "beat"))
    yield scheduler
    scheduler.close()


@pytest.mark.parametrize("back", [timedelta(minutes=1), timedelta(days=400)])
def test_every_task_goes_on_at_its_pace(
    scheduler: SteadyScheduler, monkeypatch: pytest.MonkeyPatch, back: timedelta
) -> None:
    sent: Counter[str] = Counter()
    monkeypatch.setattr(scheduler, "apply_entry", lambda entry, **_: sent.update([entry.name]))
    clock = datetime.now(UTC)
    monkeypatch.setattr(app, "now", lambda: clock)

    def run(seconds: int) -> Counter[str]:
        nonlocal clock
        sent.clear()
        until = clock + timedelta(seconds=seconds)
        while clock < until:
            pause = scheduler.tick()
            clock += timedelta(seconds=max(pause, 0.01))
        return Counter(sent)

    paces = {name: task["schedule"] for name, task in settings.CELERY_BEAT_SCHEDULE.items()}
    run(3600)
    clock -= back
    after = run(3600)
    for name, pace in paces.items():
        assert isinstance(pace, float)
        assert 0.8 * 3600 / pace - 2 <= after[name] <= 3600 / pace + 2, name
