// Elements are made here and nowhere else. Whatever the service says enters the page as text, never as HTML.

/** Make an element. `props`: its properties, or attributes where there is no such property. */
export function make(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** The element with that id. */
export const byId = (id) => document.getElementById(id);

/** Show `text`; what stays the same is not touched, so that a selection or a reader's place is not lost. */
export function write(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** Show or hide. */
export function show(element, wanted) {
  if (element.hidden === wanted) element.hidden = !wanted;
}

/**
 * Let `parent` have one child for each item, in their order. A child lives as long as its key does, so focus and
 * what was opened stay where they are. `create(item)` makes it, `update(child, item)` brings it up to date.
 */
export function keyed(parent, items, keyOf, create, update) {
  const had = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = had.get(key);
    had.delete(key);
    if (!child) {
      child = create(item);
      child.dataset.key = key;
    }
    update(child, item);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const child of had.values()) child.remove();
}
