// Names for controls that the theme leaves without one, or whose name leaves out the text on them.
document.addEventListener("DOMContentLoaded", () => {
  for (const summary of document.querySelectorAll("nav details > summary:not([aria-label])")) {
    summary.setAttribute("aria-label", "Show or hide the pages of this chapter");
  }
  for (const summary of document.querySelectorAll("details.hide > summary")) {
    summary.removeAttribute("aria-label"); // its text says more
  }
  for (const button of document.querySelectorAll(".search-button-field, .theme-switch-button")) {
    button.removeAttribute("aria-label");
    if (!button.textContent.trim()) button.setAttribute("aria-label", "Search");
    if (button.matches(".theme-switch-button")) button.setAttribute("aria-label", "Color mode: dark, light or auto");
  }
  for (const entry of document.querySelectorAll(".citation-list > .citation")) {
    entry.setAttribute("role", "listitem"); // docutils gives a role that a list may no longer hold
  }
});
