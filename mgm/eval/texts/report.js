// Filters of the examples: each section of a benchmark has its own.
for (const section of document.querySelectorAll("section.examples")) {
  const examples = [...section.querySelectorAll(".example")];
  const shown = section.querySelector(".shown");
  const controls = [...section.querySelectorAll(".filters [name]")];
  const apply = () => {
    let count = 0;
    for (const example of examples) {
      const fits = controls.every(({ name, value }) => {
        if (!value) return true;
        if (name === "search") return example.textContent.toLowerCase().includes(value.toLowerCase());
        return (example.dataset[name] || "").split("|").includes(value);
      });
      example.hidden = !fits;
      count += fits;
    }
    shown.textContent = count;
  };
  section.addEventListener("input", apply);
  apply();
}
