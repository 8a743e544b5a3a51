"""A run whose attention becomes sparse, as people see it: profile, training, resume, sampling, report."""

import html.parser
import json
import shutil
import subprocess
import unittest

from program import TINY, TempFolder, dsv, make_shards, records

SPARSE = """
attention: {policy: dsv}
sparsity: {min_steps: 4, loss_threshold: 2, mass: 0.6, coverage_min: 0.1, max_density: 0.8, coverage_every: 2,
           profile_every: 4, predictor_rank: 4, predictor_sample_every: 16}
sample: {steps: 2, count: 1}
"""


class Page(html.parser.HTMLParser):
    """Which elements a page has, and what they point to."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]


class SparseRun(TempFolder):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.shards = make_shards(cls.folder)
        cls.config = cls.folder / "sparse.yaml"
        cls.config.write_text(TINY + SPARSE)

    def command(self, name, *sets, verb="train"):
        command = [verb, self.config]
        for item in (f"data.shards={self.shards}", f"run.dir={self.folder / 'runs'}", f"run.name={name}", *sets):
            command += ["--set", item]
        return command

    def test_from_dense_to_sparse_to_a_report(self):
        given = "sparsity.break_even_density=0.95"
        _, err = dsv(*self.command("whole", given, "run.steps=16", "sample.every_steps=8"), ranks=2)
        self.assertIn("warm-up is over", err)
        self.assertRegex(err, r"block 0 becomes sparse: density 0\.\d+, coverage 0\.\d+")
        run = self.folder / "runs/whole"
        last = [r for r in records(run) if r["kind"] == "train"][-1]
        self.assertEqual(last["sparse_blocks"], 2)
        self.assertLess(last["density"], 0.95)
        states = [json.loads(line) for line in (run / "sparsity.jsonl").read_text().splitlines()]
        self.assertEqual(states[-1]["stage"], "sparse")
        self.assertEqual(len(states[-1]["blocks"][0]["heads"]), 2)

        _, err = dsv("sample", run, "-o", self.folder / "clip.mp4", "--steps", 2, "--device", "cpu")
        self.assertIn("attention is sparse in 2 of 2 blocks", err)
        _, err = dsv("sample", run, "-o", self.folder / "clip.mp4", "--steps", 2, "--attention", "full", "--device",
                     "cpu")
        self.assertNotIn("sparse", err)

        dsv("report", run)
        text = (run / "report.html").read_text()
        page = Page(text)
        self.assertGreaterEqual(page.tags.count("svg"), 10)
        self.assertNotIn("script", page.tags)
        for link in page.links:
            self.assertTrue(link.startswith("data:"), link[:80])
        for words in ("attention becomes sparse", "Density by block and step", "Coverage by head", "predictor_rank"):
            self.assertIn(words, text)
        self.assertNotIn("nan", text.replace("NaN", "").split("<h2>Configuration")[0].split("</style>")[1])
        self.screenshot(run / "report.html")

    def screenshot(self, page):
        browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if browser is None:
            return
        picture = self.folder / "report.png"
        subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", f"--screenshot={picture}",
                        "--window-size=1000,4000", f"file://{page}"], capture_output=True, timeout=120, check=True)
        self.assertGreater(picture.stat().st_size, 20_000)

    def test_costs_are_measured_once_or_read_from_a_profile(self):
        profile = self.folder / "profile.json"
        command = self.command("x", verb="profile")
        _, err = dsv(*command, "-o", profile, "--repeat", 2)
        self.assertIn("tokens: dense", err)
        _, err = dsv(*self.command("with", f"sparsity.profile={profile}", "run.steps=1"))
        self.assertNotIn("measuring", err)
        other = (f"sparsity.profile={profile}", "attention.granularity=64", "run.steps=1")
        _, err = dsv(*self.command("other", *other), expect=2)
        self.assertIn("attention.granularity: measured with 16, now 64", err)
        _, err = dsv(*self.command("stale", *other, "sparsity.allow_stale=true"))
        self.assertIn("is used although it was made elsewhere", err)
        held = json.loads(profile.read_text())
        _, err = dsv(*self.command("measured", "run.steps=2"))
        self.assertIn("[profile] measuring what attention costs here", err)
        _, err = dsv(*self.command("measured", "run.steps=3", "resume.allow=[run.steps]"))
        self.assertNotIn("measuring", err)  # the checkpoint knows
        held["attention"]["points"] = []
        held["kind"] = "something"
        profile.write_text(json.dumps(held))
        _, err = dsv(*self.command("broken", f"sparsity.profile={profile}", "run.steps=1"), expect=10)
        self.assertIn("expected a file that `dsv profile` wrote", err)


if __name__ == "__main__":
    unittest.main()
