"""Commands that need no training: help, exit codes, parity with PyTorch, weights in and out."""

import array
import shutil
import unittest

from program import DSV, SOURCE, TempFolder, dsv, safetensors

FIXTURES = SOURCE / "tests/golden/fixtures"


def floats(entry):
    return array.array({"F32": "f", "F64": "d"}[entry[0]], entry[2])


def relative_error(got, expected):
    largest = max(abs(x) for x in expected)
    return max(abs(a - b) for a, b in zip(got, expected)) / max(largest, 1e-30)


class Commands(TempFolder):
    def test_every_command_explains_itself_with_an_example(self):
        for command in ("train", "sample", "step", "import", "export", "inspect"):
            out, _ = dsv(command, "--help")
            self.assertIn("Example", out, command)
        for command in (["data", "synth"], ["data", "encode"], ["data", "check"], ["data", "stats"],
                        ["bench", "linear"], ["bench", "attention"], ["bench", "step"]):
            out, _ = dsv(*command, "--help")
            self.assertIn("xample", out, command)

    def test_usage_errors_exit_with_2(self):
        dsv("fly", expect=2)
        dsv("train", "no-such-file.yaml", expect=2)
        _, err = dsv("train", SOURCE / "configs/tiny-cpu.yaml", "--set", "optim.lrr=1", "--dump-config",
                     expect=2)
        self.assertIn("optim.lr", err)

    def test_a_machine_without_a_gpu_says_so_and_still_plans_for_one(self):
        out, _ = dsv("train", SOURCE / "configs/tiny-cpu.yaml", "--set", "run.device=cuda", "--dump-config")
        self.assertIn("compute: bf16", out)
        if shutil.which("nvidia-smi"):
            self.skipTest("this machine may have a GPU")
        _, err = dsv("train", SOURCE / "configs/tiny-cpu.yaml", "--set", "run.device=cuda", "--set",
                     f"run.dir={self.folder}", expect=2)
        self.assertIn("run.device: expected cpu or auto here, got cuda: ", err)

    def test_every_shipped_configuration_dry_runs(self):
        for path in sorted((SOURCE / "configs").glob("*.yaml")):
            out, _ = dsv("train", path, "--dry-run")
            self.assertIn("parameters", out)

    def test_dumped_configuration_loads_back_to_itself(self):
        out, _ = dsv("train", SOURCE / "configs/tiny-cpu.yaml", "--set", "optim.lr=0.002", "--dump-config")
        path = self.folder / "dumped.yaml"
        path.write_text(out)
        again, _ = dsv("train", path, "--dump-config")
        self.assertEqual(out, again)

    def test_config_reference_is_current(self):
        out, _ = dsv("train", "--config-reference")
        self.assertEqual(out, (SOURCE / "docs/config.md").read_text())

    def test_step_equals_pytorch(self):
        for case in sorted(p for p in FIXTURES.iterdir() if p.is_dir()):
            out = self.folder / f"{case.name}.safetensors"
            dsv("step", "--model-json", case / "config.json", "--weights", case / "weights.safetensors",
                "--batch", case / "batch.safetensors", "-o", out, "--grads")
            got, expected = safetensors(out), safetensors(case / "expect.safetensors")
            self.assertLess(relative_error(floats(got["output"]), floats(expected["output"])), 2e-6)
            self.assertAlmostEqual(floats(got["loss"])[0] / floats(expected["loss"])[0], 1, delta=1e-6)
            names = [n for n in expected if n.startswith("grad.")]
            self.assertEqual(sorted(n for n in got if n.startswith("grad.")), sorted(names))
            for name in names:
                self.assertLess(relative_error(floats(got[name]), floats(expected[name])), 5e-6, name)

    def test_import_and_export_change_no_byte(self):
        for case in ("wan_tiny", "dsv_sigma"):
            folder = self.folder / case
            folder.mkdir()
            weights = (FIXTURES / case / "weights.safetensors").read_bytes()
            (folder / "diffusion_pytorch_model.safetensors").write_bytes(weights)
            (folder / "config.json").write_bytes((FIXTURES / case / "config.json").read_bytes())
            packed, back = self.folder / f"{case}.safetensors", self.folder / f"{case}.back"
            dsv("import", folder, "-o", packed)
            dsv("export", packed, "-o", back)
            self.assertEqual(safetensors(back / "diffusion_pytorch_model.safetensors"),
                             safetensors(folder / "diffusion_pytorch_model.safetensors"))
            self.assertEqual((back / "config.json").read_bytes(), (folder / "config.json").read_bytes())
            out, err = dsv("inspect", packed)
            self.assertIn("patch", (out + err))

    def test_weights_that_do_not_fit_are_named(self):
        wan, other = FIXTURES / "wan_tiny", FIXTURES / "wan_headdim"
        _, err = dsv("step", "--model-json", other / "config.json", "--weights", wan / "weights.safetensors",
                     "--batch", other / "batch.safetensors", "-o", self.folder / "x", expect=10)
        self.assertIn("patch_embedding", err)


if __name__ == "__main__":
    unittest.main()
