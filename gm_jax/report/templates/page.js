// A film is one tall picture of all frames; the slider chooses the part of it that the canvas shows.
for (const film of document.querySelectorAll(".film")) {
  const [frames, canvas, slider, shown] = ["img", "canvas", "input", "output"].map((tag) => film.querySelector(tag));
  const draw = () => {
    const top = (slider.value - 1) * canvas.height;
    canvas.getContext("2d").drawImage(frames, 0, top, canvas.width, canvas.height, 0, 0, canvas.width, canvas.height);
    shown.value = slider.value;
  };
  slider.addEventListener("input", draw);
  if (frames.complete) draw();
  else frames.addEventListener("load", draw);
}
