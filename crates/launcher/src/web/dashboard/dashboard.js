// Which page is shown, and what keeps it up to date. The address alone says what is shown.

import {become, el, get, many, setClock, tick} from './dom.js';
import * as lists from './lists.js';
import {details, front, isGrave, subject} from './pages.js';

const main = document.getElementById('main');
const live = document.getElementById('live');
const said = document.getElementById('said');

// How often what is asked for anew is, in ms.
const EVERY = {request: 1000, node: 1000, id: 4000, label: 4000, image: 4000, provider: 4000, list: 4000, recent: 3000};
// After a change: by then launchers have put down what it was.
const PUT_DOWN = 1500;

let seen = null;
let recent = null;
let rows = {};
let turn = 0;
let drawnAt = 0;
let pending = null;
// Which address is being drawn, whether something has changed meanwhile, and which one is shown.
let drawing = null;
let again = false;
let shown = null;

const query = () => new URLSearchParams(location.search);

function show(content, title) {
  become(main, el('main', {}, content));
  document.title = title ? `${title} - Nodepool` : 'Nodepool';
  shown = location.search;
  if (!document.documentElement.dataset.drawn) document.documentElement.dataset.drawn = String(Math.round(performance.now()));
}

// Draws what the address says. `anew`: what was asked for before is asked for again.
async function draw(anew) {
  const mine = ++turn;
  drawing = location.search;
  const asked = query(), what = subject(asked), name = asked.get('page');
  for (const link of document.querySelectorAll('header nav a')) {
    const isIt = !what && link.dataset.page === (Object.hasOwn(lists.LISTS, name) ? name : '');
    if (isIt) link.setAttribute('aria-current', 'page'); else link.removeAttribute('aria-current');
  }
  try {
    if (what) {
      const found = await details(...what);
      if (mine === turn) show(found, what[1]);
    } else if (Object.hasOwn(lists.LISTS, name)) {
      if (anew || !rows[name]) rows[name] = await lists.load(lists.LISTS[name]);
      if (mine === turn) show(lists.page(name, rows[name], asked), lists.LISTS[name].title);
    } else {
      seen ??= taken(await get('./api/v1/overview'));
      if (mine === turn) show(front(seen, asked, recent), '');
      if (recent === null) askRecent();
    }
  } catch (error) {
    if (mine === turn && (shown !== location.search || !main.querySelector('h1'))) show(el('p', {class: 'note off'}, `The launcher does not say: ${error.message}`), '');
  }
  if (mine !== turn) return;
  drawing = null;
  drawnAt = performance.now();
  if (again) { again = false; changed(); }
}

function taken(overview) {
  setClock(overview.at);
  return overview;
}

// Something has changed: what is shown is drawn anew, what costs the launcher more less often.
function changed() {
  const asked = query(), what = subject(asked), name = asked.get('page');
  const every = what ? EVERY[what[0]] : Object.hasOwn(lists.LISTS, name) ? EVERY.list : 0;
  if (document.hidden || pending !== null) return;
  // An answer that takes long is shown before it is asked for again.
  if (drawing === location.search) { again = true; return; }
  const wait = every === 0 ? 0 : Math.max(0, drawnAt + every - performance.now());
  if (wait === 0) draw(true);
  else pending = setTimeout(() => { pending = null; draw(true); }, wait);
}

// What has happened is asked for beside the rest, which is shown at once also where a launcher does not answer.
let recentAt = -Infinity, asking = null;
const isFront = () => !subject(query()) && !query().get('page');
function askRecent() {
  asking ??= get('./api/v1/history?limit=15').catch((error) => ({events: [], error: error.message})).then((answer) => {
    [recent, recentAt, asking] = [answer, performance.now(), null];
    if (isFront() && drawing === null) draw(false);
  });
}
let soon = null;
function somethingHappened() {
  if (!isFront()) { recent = null; return; }
  soon ??= setTimeout(() => { soon = null; if (isFront() && !document.hidden) askRecent(); },
    Math.max(PUT_DOWN, recentAt + EVERY.recent - performance.now()));
}

let needs = null;
function announce(overview) {
  const number = overview.attention.filter(isGrave).length;
  if (needs !== null && needs !== number) said.textContent = `${many(number, 'thing')} ${number === 1 ? 'needs' : 'need'} attention now`;
  needs = number;
}

let events = null;
// A browser has six connections for all of its tabs: those that nobody looks at leave theirs.
function listen() {
  if (document.hidden || (events && events.readyState !== EventSource.CLOSED)) return;
  events = new EventSource('./api/v1/events');
  const state = (word, text) => { live.className = `live ${word}`; if (live.textContent !== text) live.textContent = text; };
  events.addEventListener('open', () => state('on', 'live'));
  events.addEventListener('overview', (event) => {
    seen = taken(JSON.parse(event.data));
    document.documentElement.dataset.version = event.lastEventId;
    announce(seen);
    changed();
    somethingHappened();
  });
  events.addEventListener('error', () => {
    state('off', 'not live: the launcher is away');
    // Refused for good, as too many listen: by asking, then.
    if (events.readyState === EventSource.CLOSED) {
      state('off', 'not live: asked every 10 s');
      setTimeout(listen, 30000);
    }
  });
}

function go(address, replace) {
  history[replace ? 'replaceState' : 'pushState'](null, '', address);
  return draw(false);
}

document.addEventListener('click', (event) => {
  const link = event.target.closest?.('a[href^="./"]');
  if (!link || event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const address = link.getAttribute('href');
  if (address !== './' && !address.startsWith('./?')) return;
  event.preventDefault();
  // The order of a list changes in place.
  const stays = link.closest('thead') !== null;
  go(address, false).then(() => {
    if (stays) return;
    scrollTo(0, 0);
    main.focus({preventScroll: true});
  });
});

addEventListener('popstate', () => draw(false));

document.querySelector('header form').addEventListener('submit', (event) => {
  event.preventDefault();
  const box = event.target.elements.id, id = box.value.trim();
  if (!id) return;
  go(`./?${new URLSearchParams({id})}`, false).then(() => main.focus());
  box.value = '';
});

let typing;
function filtered(form) {
  const asked = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
  for (const key of ['sort', 'dir']) if (query().get(key)) asked.set(key, query().get(key));
  go(`./?${asked}`, true);
}
main.addEventListener('input', (event) => {
  if (event.target.form?.id !== 'filters') return;
  clearTimeout(typing);
  typing = setTimeout(() => filtered(event.target.form), event.target.nodeName === 'SELECT' ? 0 : 150);
});
main.addEventListener('submit', (event) => { event.preventDefault(); filtered(event.target); });

document.addEventListener('visibilitychange', () => {
  if (document.hidden) return events?.close();
  listen();
  changed();
});
setInterval(tick, 1000);
// Where there are no events, by asking.
setInterval(async () => {
  if (live.classList.contains('on') || document.hidden) return;
  try { seen = taken(await get('./api/v1/overview')); changed(); somethingHappened(); } catch { /* it is said already that it is away */ }
}, 10000);

draw(true);
listen();
