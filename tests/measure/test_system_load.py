"""What the kernel's files say, in folders laid out as it does; and columns that a system does not tell."""

import pytest

from llmhw_helpers.measure.system_load import SystemLoad

TOLD = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=77\n"


def test_pressure_is_the_time_in_which_some_task_waited(tmp_path):
    (tmp_path / "io").write_text(TOLD.format(5_000_000))
    load = SystemLoad(pressure=tmp_path)
    assert load.read(10.0)["io_stalled_seconds"] == 0
    (tmp_path / "io").write_text(TOLD.format(5_250_000))
    assert load.read(11.0)["io_stalled_seconds"] == pytest.approx(0.25)
    (tmp_path / "io").write_text(TOLD.format(9_000_000))  # told late: nobody can wait for more than all of the time
    assert load.read(12.0)["io_stalled_seconds"] == pytest.approx(1.25)


@pytest.mark.parametrize("text", ["", "full avg10=0.00 total=3\n", "some avg10=0.00 total=\n", "some\n"])
def test_a_file_of_another_kind_is_no_column(tmp_path, text):
    (tmp_path / "cpu").write_text(text)
    (tmp_path / "memory").mkdir()  # cannot be read, as where the kernel was told not to count
    told = SystemLoad(pressure=tmp_path).read(0.0)
    assert not any("stalled" in name for name in told)
    assert told["machine_cpu_seconds"] == 0
    assert told["available_bytes"] > 1e6


def test_a_sandbox_that_hides_its_networks_leaves_them_out(monkeypatch):
    def hidden(pernic, nowrap):
        raise PermissionError

    monkeypatch.setattr("psutil.net_io_counters", hidden)
    told = SystemLoad().read(0.0)
    assert "sent_bytes" not in told
    assert "machine_cpu_seconds" in told
