"""The main job under mpirun: train, stop, resume, other rank counts, sampling, and what goes wrong."""

import pathlib
import shutil
import signal
import subprocess
import unittest

from program import DSV, ENVIRONMENT, TINY, TempFolder, dsv, make_shards, records, wait_for

TIMES = ("step_ms", "samples_per_s", "tokens_per_s", "gflops", "mfu", "data_wait_ms", "comm_ms", "time_ms")


def curve(run):
    """What must be equal bit for bit: everything but times and memory."""
    keep = ("step", "loss", "grad_norm", "lr")
    return [{k: r[k] for k in keep} for r in records(run) if "loss" in r]


def state_hash(err):
    lines = [line for line in err.splitlines() if "state hash" in line]
    assert lines, err
    return lines[-1].split("state hash")[1].split()[0]


class TrainRun(TempFolder):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.shards = make_shards(cls.folder)
        cls.config = cls.folder / "tiny.yaml"
        cls.config.write_text(TINY)

    def command(self, name, *extra):
        return ("train", self.config, "--set", f"data.shards={self.shards}", "--set",
                f"run.dir={self.folder / 'runs'}", "--set", f"run.name={name}", *extra)

    def run_path(self, name):
        return self.folder / "runs" / name

    def test_stop_on_signal_and_resume_equals_not_stopping(self):
        for ranks in (1, 2):
            whole = f"whole{ranks}"
            _, err = dsv(*self.command(whole, "--set", "run.steps=60"), ranks=ranks)
            expected = state_hash(err)
            name = f"stopped{ranks}"
            job = subprocess.Popen(
                [shutil.which("mpirun"), "-n", str(ranks), DSV,
                 *map(str, self.command(name, "--set", "run.steps=60"))],
                env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            metrics = self.run_path(name) / "metrics.jsonl"
            wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= 3)
            job.send_signal(signal.SIGUSR1)
            job.communicate(timeout=60)
            self.assertEqual(job.returncode, 75)
            stopped_at = len(curve(self.run_path(name)))
            self.assertLess(stopped_at, 60)
            _, err = dsv(*self.command(name, "--set", "run.steps=60"), ranks=ranks)
            self.assertEqual(state_hash(err), expected)
            self.assertEqual(curve(self.run_path(name)), curve(self.run_path(whole)))

    def test_ranks_follow_one_curve(self):
        curves = {}
        for ranks in (1, 2, 4):
            dsv(*self.command(f"ranks{ranks}", "--set", "run.steps=20"), ranks=ranks)
            curves[ranks] = curve(self.run_path(f"ranks{ranks}"))
        for ranks in (2, 4):
            for one, many in zip(curves[1], curves[ranks]):
                self.assertAlmostEqual(many["loss"] / one["loss"], 1, delta=1e-5)

    def test_kill_9_in_a_step_loses_only_steps_since_the_last_checkpoint(self):
        # Synchronous saves: which checkpoint is there when the rank dies is then certain.
        extra = ("--set", "checkpoint.every_steps=3", "--set", "checkpoint.async=false")
        _, err = dsv(*self.command("calm", *extra), ranks=2)
        expected = state_hash(err)
        done = subprocess.run([shutil.which("mpirun"), "-n", "2", DSV, *map(str, self.command("killed", *extra))],
                              env={**ENVIRONMENT, "DSV_FAULT": "step:kill9@1,7"}, capture_output=True,
                              text=True, timeout=60)
        self.assertNotEqual(done.returncode, 0)
        _, err = dsv(*self.command("killed", *extra), ranks=2)
        self.assertIn("step 6", err)
        self.assertEqual(state_hash(err), expected)
        self.assertEqual(curve(self.run_path("killed")), curve(self.run_path("calm")))

    def test_non_finite_loss_exits_with_20_and_names_the_rank(self):
        _, err = dsv(*self.command("nan"), ranks=2, expect=20, env={"DSV_FAULT": "grad:nan@1,2"})
        self.assertIn("rank 1", err)

    def test_drift_is_refused_unless_allowed(self):
        dsv(*self.command("drift", "--set", "run.steps=2"))
        _, err = dsv(*self.command("drift", "--set", "run.steps=2", "--set", "model.num_layers=3"), expect=12)
        self.assertIn("model.num_layers", err)
        _, err = dsv(*self.command("drift", "--set", "run.steps=2", "--set", "optim.lr=0.01"), expect=12)
        self.assertIn("optim.lr", err)
        dsv(*self.command("drift", "--set", "run.steps=2", "--set", "optim.lr=0.01", "--set",
                          "resume.allow=[optim.lr]"))

    def test_resume_modes(self):
        dsv(*self.command("nothing", "--resume", "required"), expect=11)
        dsv(*self.command("modes", "--set", "run.steps=2"))
        _, err = dsv(*self.command("modes", "--set", "run.steps=2", "--resume", "never"), expect=2)
        self.assertIn("checkpoints", err)

    def test_shards_that_do_not_fit_say_which_setting(self):
        _, err = dsv(*self.command("unfit", "--set", "model.in_channels=96"), expect=2)
        self.assertIn("model.in_channels", err)

    def test_evaluation_samples_and_generation(self):
        dsv(*self.command("full", "--set", "run.steps=4", "--set", "eval.every_steps=2", "--set",
                          "sample.every_steps=4", "--set", "sample.steps=2", "--set", "sample.count=2"), ranks=2)
        evaluated = [r for r in records(self.run_path("full")) if "held_out_raw" in r]
        self.assertEqual([r["step"] for r in evaluated], [2, 4])
        self.assertEqual(len(evaluated[0]["held_out_raw_by_t"]), 8)
        self.assertIn("held_out_ema", evaluated[0])
        self.assertTrue(list((self.run_path("full") / "samples").glob("*.mp4")))
        self.assertTrue(list((self.run_path("full") / "samples").glob("*.png")))
        out = self.folder / "out.mp4"
        dsv("sample", self.run_path("full"), "-o", out, "--prompt", "a red ball", "--steps", 2,
            "--latents", self.folder / "latents.safetensors")
        self.assertGreater(out.stat().st_size, 500)
        self.assertTrue((self.folder / "out.png").exists())
        out, _ = dsv("inspect", self.run_path("full") / "checkpoints" / "step_4", "--verify")
        self.assertIn("ema", out)

    def test_the_checkpoint_moves_between_rank_counts(self):
        dsv(*self.command("moves", "--set", "run.steps=12"))
        base = curve(self.run_path("moves"))
        for steps, ranks in ((4, 2), (8, 1), (12, 4)):
            dsv(*self.command("elastic", "--set", f"run.steps={steps}"), ranks=ranks)
        got = curve(self.run_path("elastic"))
        self.assertEqual([r["step"] for r in got], [r["step"] for r in base])
        for a, b in zip(got, base):
            self.assertAlmostEqual(a["loss"] / b["loss"], 1, delta=1e-5)


if __name__ == "__main__":
    unittest.main()
