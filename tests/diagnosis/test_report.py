"""A diagnosis is the same whether it is read, shown, tabulated or written as JSON."""

from __future__ import annotations

import json
import sys

import pytest

from torchreg.diagnosis import Diagnosis, Finding

DEAD = Finding("dead-units", "warning", "3 of 5 <units> are dead.", {"n_dead": 3}, "Lower lr.")
SCALE = Finding("unscaled-inputs", "severe", "a is about 200 ± 14.", {"mean": [200.0]}, "Scale.")
ROWS = Finding("underdetermined", "info", "More parameters than rows.", {"ratio": float("inf")})


def test_the_worst_comes_first() -> None:
    assert Diagnosis((ROWS, DEAD, SCALE)).findings == (SCALE, DEAD, ROWS)


def test_a_diagnosis_says_what_it_holds() -> None:
    diagnosis = Diagnosis((ROWS, DEAD))
    assert "dead-units" in diagnosis
    assert "stalled" not in diagnosis
    assert diagnosis["dead-units"] is DEAD
    assert diagnosis.codes == ("dead-units", "underdetermined")
    assert list(diagnosis) == [DEAD, ROWS]
    assert not diagnosis.healthy
    assert Diagnosis((ROWS,)).healthy
    with pytest.raises(KeyError, match=r"'stalled'; there are: dead-units, underdetermined"):
        diagnosis["stalled"]


def test_the_text_holds_every_message_and_every_advice() -> None:
    text = str(Diagnosis((DEAD, SCALE), {"sentence": "R2 = 0.5."}))
    for part in ("2 findings", DEAD.message, DEAD.advice, SCALE.message, "R2 = 0.5."):
        assert part in text


def test_a_healthy_fit_is_one_friendly_line() -> None:
    diagnosis = Diagnosis((), {"sentence": "R2 = 0.9 on 333 rows."})
    assert str(diagnosis) == "Nothing to worry about: R2 = 0.9 on 333 rows."
    assert diagnosis
    assert len(diagnosis) == 0


def test_html_is_escaped_and_complete() -> None:
    shown = Diagnosis((DEAD, ROWS), {"sentence": "a < b"})._repr_html_()
    assert "3 of 5 &lt;units&gt; are dead." in shown
    assert "a &lt; b" in shown
    assert "n_dead = 3" in shown


def test_the_dictionary_survives_json_and_the_table_has_a_row_per_finding() -> None:
    diagnosis = Diagnosis((DEAD, SCALE, ROWS), {"n_rows": 333})
    written = json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))
    assert written == diagnosis.to_dict()
    frame = diagnosis.to_frame()
    assert list(frame["code"]) == list(diagnosis.codes)
    assert list(Diagnosis(()).to_frame().columns) == list(frame.columns)


def test_a_finding_of_an_unknown_code_or_severity_is_refused() -> None:
    with pytest.raises(ValueError, match=r"A finding's code is one of .*'dead'"):
        Finding("dead", "info", "")
    with pytest.raises(ValueError, match=r"A severity is one of .*'bad'"):
        Finding("dead-units", "bad", "")


def test_without_pandas_a_diagnosis_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"to_frame needs pandas: pip install .*, or use to_dict"):
        Diagnosis(()).to_frame()
