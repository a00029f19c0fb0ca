// Elements, times and words. What others have written (names, sentences, comments) only ever becomes a text node or an
// attribute's value.

const SVG = 'http://www.w3.org/2000/svg';

// el('a', {href: './'}, 'text', element, [more], null)
export function el(name, attributes, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function svg(name, attributes, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? '' : value);
  }
  for (const child of children.flat(4)) {
    if (child !== null && child !== undefined && child !== false && child !== '') element.append(child);
  }
  return element;
}

// Makes an element's children what another one's are, and leaves all that is the same in place: focus, selection and what
// a screen reader reads stay, and nothing flickers. Children with `data-key` keep their element when others come before.
export function become(old, fresh) {
  const byKey = new Map();
  for (const child of old.children) if (child.dataset?.key) byKey.set(child.dataset.key, child);
  const stay = new Set([...fresh.children].map((child) => child.dataset?.key));
  // What goes is taken out first: then what stays need not be moved, which would lose its focus.
  for (const [key, child] of byKey) if (!stay.has(key)) { child.remove(); byKey.delete(key); }
  let at = old.firstChild;
  for (const want of [...fresh.childNodes]) {
    const key = want.dataset?.key;
    let have = key ? byKey.get(key) : at;
    // Of several with one key each has an element.
    if (key) byKey.delete(key);
    if (!key && have?.dataset?.key) have = null;
    if (have && isLike(have, want)) {
      if (have !== at) old.insertBefore(have, at); else at = at.nextSibling;
      same(have, want);
    } else {
      old.insertBefore(want, at);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function isLike(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.dataset?.key ?? '') === (b.dataset?.key ?? '');
}

function same(have, want) {
  if (have.nodeType === Node.TEXT_NODE) {
    if (have.data !== want.data) have.data = want.data;
    return;
  }
  for (const {name} of [...have.attributes]) if (!want.hasAttribute(name)) have.removeAttribute(name);
  for (const {name, value} of [...want.attributes]) if (have.getAttribute(name) !== value) have.setAttribute(name, value);
  // What somebody is choosing or typing is his.
  if (have.nodeName === 'SELECT' && have === document.activeElement) return;
  if (have.nodeName === 'INPUT' && have !== document.activeElement && have.value !== want.value) have.value = want.value;
  become(have, want);
  if (have.nodeName === 'SELECT') have.value = want.dataset.value ?? want.value;
}

// Ages are as of the launcher's clock.
let ahead = 0;
export function setClock(at) { ahead = at - Date.now() / 1000; }
export function now() { return Date.now() / 1000 + ahead; }

function duration(seconds) {
  const s = Math.max(0, Math.floor(seconds)), m = Math.floor(s / 60), h = Math.floor(m / 60), d = Math.floor(h / 24);
  if (d) return `${d} d ${h % 24} h`;
  if (h) return `${h} h ${m % 60} min`;
  return m ? `${m} min` : `${s} s`;
}

export function age(at) {
  const seconds = now() - at;
  return seconds < -1 ? `in ${duration(-seconds)}` : duration(seconds);
}

// How long ago, with the moment itself at hand.
export function when(at, ago = false) {
  if (at === null || at === undefined) return null;
  const date = new Date(at * 1000);
  if (Number.isNaN(date.getTime())) return null;
  const text = () => (ago && at <= now() + 1 ? `${age(at)} ago` : age(at));
  return el('time', {datetime: date.toISOString(), title: date.toLocaleString(undefined, {timeZoneName: 'short'}),
    'data-at': at, 'data-ago': ago}, text());
}

export function tick() {
  for (const time of document.querySelectorAll('time[data-at]')) {
    const at = Number(time.dataset.at);
    const text = time.hasAttribute('data-ago') && at <= now() + 1 ? `${age(at)} ago` : age(at);
    if (time.firstChild && time.firstChild.data !== text) time.firstChild.data = text;
  }
}

const VERDICTS = {
  fine: ['FINE', 'It is served, or is as it should be.'],
  wait: ['WAIT', 'It waits for what comes by itself.'],
  act: ['ACT', 'A person of the site has to do something.'],
  // Of what is listed only because it has been so for long.
  long: ['LONG', 'It is as it should be, and has been so for long.'],
  out: ['OUT', 'This pool does not serve it.'],
  change: ['CHANGE', 'It will never be served as it is: the request or the configuration has to be changed.'],
};

export function verdict(word) {
  const [text, title] = VERDICTS[word] ?? [word, ''];
  return el('span', {class: `verdict ${word}`, title}, text);
}

export function verdictMeans(word) { return VERDICTS[word]?.[1] ?? ''; }

export const address = (query) => {
  const text = new URLSearchParams(Object.entries(query).filter(([, v]) => v !== '' && v !== null && v !== undefined)).toString();
  return text ? `./?${text}` : './';
};

export function to(kind, id, text = id) {
  return el('a', {href: address({[kind]: id}), class: kind === 'request' || kind === 'node' ? 'id' : null}, text);
}

export function many(number, one, more = `${one}s`) { return `${number.toLocaleString('en')} ${number === 1 ? one : more}`; }

export const number = (value) => value.toLocaleString('en', {maximumFractionDigits: 1});

// A table. columns: {name, cell(row), number, key}; the first one heads its row. The roles hold where a narrow screen shows rows
// as blocks.
export function table(caption, columns, rows, {key, heads, empty} = {}) {
  if (!rows.length) return el('p', {class: 'soft'}, empty ?? 'None.');
  const head = heads ?? columns.map((c) => el('th', {role: 'columnheader', scope: 'col', class: c.number && 'number'}, c.name));
  return el('table', {role: 'table'}, el('caption', {class: 'hidden'}, caption),
    el('thead', {role: 'rowgroup'}, el('tr', {role: 'row'}, head)),
    el('tbody', {role: 'rowgroup'}, rows.map((row) => el('tr', {role: 'row', 'data-key': key?.(row)},
      columns.map((c, at) => {
        const cell = c.cell(row);
        const value = Array.isArray(cell) && cell.length ? el('span', {}, cell) : cell;
        const zero = c.number && value === 0 ? ' zero' : '';
        const attributes = {'data-name': c.name, class: c.number ? `number${zero}` : null};
        return at === 0 ? el('th', {role: 'rowheader', scope: 'row', ...attributes}, value)
          : el('td', {role: 'cell', ...attributes}, typeof value === 'number' ? number(value) : value);
      })))));
}

export function section(title, {note, more, key} = {}, ...content) {
  const id = `h-${key ?? title.toLowerCase().replaceAll(/\W+/g, '-')}`;
  return el('section', {'aria-labelledby': id, 'data-key': id}, el('div', {class: 'head'}, el('h2', {id}, title),
    note && el('p', {}, note), more), ...content);
}

export async function get(path) {
  const answer = await fetch(path, {headers: {Accept: 'application/json'}});
  const body = await answer.json().catch(() => ({error: `the launcher answers with ${answer.status}`}));
  if (!answer.ok) throw new Error(body.error ?? `the launcher answers with ${answer.status}`);
  return body;
}
