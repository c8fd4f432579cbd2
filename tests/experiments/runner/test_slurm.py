"""Jobs of Slurm do the work. Programs of its names stand in for it, and start the jobs here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

ROOT = Path(__file__).resolve().parents[3]
COMMAND = [sys.executable, "-m", "experiments", "gaussian_products", "--preset", "quick"]
# Slurm keeps a copy of the script, since dask-jobqueue deletes its own.
SBATCH = """#!/bin/sh
cp "$1" "$0.$$"
setsid sh "$0.$$" > "$0.$$.log" 2>&1 < /dev/null &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
for job in "$@"; do kill -TERM -- "-$job"; done
"""
REFUSAL = """#!/bin/sh
echo "sbatch: error: invalid partition" >&2
exit 1
"""
CONFIGURATION = """
jobqueue:
  slurm: {cores: 1, processes: 1, memory: 2GB, walltime: "00:10:00"}
"""


def run(folder, *options, **environment):
    return subprocess.run(
        [*COMMAND, *options, "--folder", str(folder)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_jobs_of_slurm_compute_what_this_process_computes(tmp_path):
    pytest.importorskip("dask_jobqueue")
    for name, script in {"sbatch": SBATCH, "scancel": SCANCEL}.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "jobqueue.yaml").write_text(CONFIGURATION)
    slurm = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "DASK_CONFIG": str(tmp_path)}
    by_slurm = run(tmp_path / "there", "--slurm", "2", **slurm)
    assert by_slurm.returncode == 0, by_slurm.stderr
    assert len(list(tmp_path.glob("sbatch.*.log"))) == 2
    here = run(tmp_path / "here", "--workers", "0")
    assert here.returncode == 0, here.stderr
    one, other = (
        xr.load_dataset(tmp_path / place / "gaussian_products" / "quick-float64.nc")
        for place in ("there", "here")
    )
    assert one.equals(other)


@pytest.mark.parametrize(
    ("script", "said"),
    [(None, "No such file or directory: 'sbatch'"), (REFUSAL, "sbatch: error: invalid partition")],
)
def test_what_slurm_says_against_it_is_told(tmp_path, script, said):
    pytest.importorskip("dask_jobqueue")
    (tmp_path / "jobqueue.yaml").write_text(CONFIGURATION)
    if script is not None:
        (tmp_path / "sbatch").write_text(script)
        (tmp_path / "sbatch").chmod(0o755)
    result = run(tmp_path, "--slurm", "1", PATH=str(tmp_path), DASK_CONFIG=str(tmp_path))
    assert result.returncode == 1
    assert "--slurm: no jobs could be started, see docs/cluster.md" in result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr
