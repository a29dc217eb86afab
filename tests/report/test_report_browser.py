"""The page in a real browser: all pictures load, nothing is complained of, the slider moves the film."""

import html
import json
import re
import shutil
import subprocess

import pytest

from gm_jax.report import __main__ as report


def starts(browser: str) -> bool:
    return subprocess.run([browser, "--version"], capture_output=True).returncode == 0


CHROMIUM = next(filter(starts, filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))), None)
PICTURES = ("samples.png", "reconstructions.png", "denoising.png", "denoising.gif")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed")

LISTEN = """<script>
window.complaints = [];
window.addEventListener("error", (event) => complaints.push(event.message || `cannot load ${event.target.src}`), true);
window.addEventListener("unhandledrejection", (event) => complaints.push(String(event.reason)));
window.addEventListener("securitypolicyviolation", (event) => complaints.push(event.violatedDirective));
console.error = console.warn = (...words) => complaints.push(words.join(" "));
</script>"""

LOOK = """<script>
const shown = (film) => film.querySelector("canvas").toDataURL();
function play(film) {
  const slider = film.querySelector("input"), last = shown(film), frames = [];
  for (let frame = 1; frame <= film.dataset.frames; frame++) {
    slider.value = frame;
    slider.dispatchEvent(new Event("input"));
    frames.push(shown(film));
  }
  return { frames: new Set(frames).size, startsAtLast: last === frames.at(-1), says: film.querySelector("output").value };
}
window.addEventListener("load", () => {
  const films = [...document.querySelectorAll(".film")].map(play);
  const wide = document.documentElement.scrollWidth > innerWidth;
  const report = () => {
    const loaded = [...document.images].filter((picture) => picture.naturalWidth > 0).length;
    const seen = { pictures: document.images.length, loaded, films, wide, complaints };
    document.documentElement.dataset.seen = JSON.stringify(seen);
  };
  report();
  setTimeout(report, 1000);  // complaints may come a little later
});
</script>"""


def look_at(page: str, path) -> dict:
    """What a browser sees of a page; messages of its console are complaints."""
    path.write_text(page.replace("<head>", f"<head>{LISTEN}", 1).replace("</body>", f"{LOOK}</body>"))
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=5000"]
    flags += [f"--user-data-dir={path.parent / 'profile'}", "--enable-logging=stderr", "--window-size=1200,900"]
    done = subprocess.run([CHROMIUM, *flags, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=300)
    seen = re.search('data-seen="([^"]*)"', done.stdout)
    assert seen, f"the page did not finish: {done.stderr[-2000:]}"
    return json.loads(html.unescape(seen[1])) | {"console": [line for line in done.stderr.splitlines() if "CONSOLE" in line]}


def test_the_page_renders(make_run, entry, tmp_path):
    name = "frechet_digits_classifier_1k_train"
    metrics = {name: [entry(3.0, nfe=100), entry(5.0, nfe=10, sampling={"steps": 10})]}
    workdirs = [make_run(run, pictures=PICTURES, metrics=metrics) for run in ("a", "b")]
    assert report.main([*map(str, workdirs), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "index.html").read_text()

    seen = look_at(page, tmp_path / "page.html")
    plots = page.count("data:image/svg+xml")
    assert plots == 2  # loss; quality against cost
    assert seen["pictures"] == seen["loaded"] == 2 * len(PICTURES) + plots
    assert seen["films"] == [{"frames": 4, "startsAtLast": True, "says": "4"}] * 2
    assert seen["complaints"] == [] and seen["console"] == [] and not seen["wide"]


def test_a_broken_page_is_seen_to_be_broken(make_run, tmp_path):
    assert report.main([str(make_run("a", pictures=PICTURES)), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    broken = page.replace("data:image/png;base64,", "data:image/png;base64,AAAA", 1)
    broken = broken.replace("</body>", '<img src="https://example.org/x.png"><script>nothing()</script></body>')
    seen = look_at(broken, tmp_path / "page.html")
    assert seen["loaded"] == seen["pictures"] - 2
    assert any("nothing" in line for line in seen["complaints"]) and "img-src" in seen["complaints"] and seen["console"]
