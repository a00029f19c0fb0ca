// The front page, and what is told of one thing. Each makes its page from what the API says; no sentence is made here.

import {address, el, get, many, number, section, svg, table, to, verdict, verdictMeans, when} from './dom.js';

const SHOWN = 15;

export const isGrave = (a) => a.verdict === 'act' || a.verdict === 'change';
const sum = (counts) => Object.values(counts).reduce((a, b) => a + b, 0);

export function front(seen, query, recent) {
  const only = query.get('page');
  const parts = {attention, waiting, labels, providers, images};
  if (Object.hasOwn(parts, only)) return [el('h1', {}, TITLES[only]), remarks(seen), parts[only](seen, Infinity)];
  const open = (seen.requests.requested ?? 0) + (seen.requests.pending ?? 0);
  // The grave come first: where others are in the list, all of the grave are.
  const listed = seen.attention.filter(isGrave).length;
  const grave = listed + (listed === seen.attention.length ? seen.more_attention : 0);
  const fact = (value, what, bad) => el('li', {class: bad && 'is-act'}, el('b', {}, number(value)), el('span', {}, what));
  return [
    el('h1', {class: 'hidden'}, 'Overview'),
    remarks(seen),
    el('ul', {class: 'sums', 'aria-label': 'Counts', 'data-key': 'sums'},
      fact(grave, grave === 1 ? 'needs somebody' : 'need somebody', grave > 0), fact(open, 'requests open'), fact(seen.requests.pending ?? 0, 'of them being served'),
      fact(sum(seen.nodes), 'nodes'), fact(seen.nodes['in-use'] ?? 0, 'in use'), fact(seen.nodes.ready ?? 0, 'ready'),
      fact((seen.nodes.building ?? 0) + (seen.nodes.init ?? 0), 'being launched'), fact(seen.nodes.deleting ?? 0, 'being deleted')),
    attention(seen, SHOWN), waiting(seen, SHOWN), providers(seen, SHOWN), labels(seen, SHOWN), images(seen, SHOWN), activity(recent),
    el('footer', {'data-key': 'footer'}, 'What launchers say: ', seen.launchers.map((l) => l.hostname).join(', '),
      '. Everything here is read-only. ', el('a', {href: './api/v1/overview'}, 'As JSON')),
  ];
}

const TITLES = {attention: 'Needs attention', waiting: 'Waiting longest', labels: 'Supply', providers: 'Providers', images: 'Images'};

// Launchers that say nothing, so that nobody takes a part for the whole.
function remarks(seen) {
  return seen.silent.map((silent) => el('p', {class: 'note off', 'data-key': `silent-${silent.hostname}`},
    `Not in this picture: the launcher on ${silent.hostname} (${silent.pools.join(', ')}): ${silent.why}`));
}

function rest(all, shown, page) {
  return all > shown && el('a', {href: address({page})}, `All ${number(all)}`);
}

function attention(seen, most) {
  const list = seen.attention.slice(0, most);
  const item = (a) => el('li', {class: `is-${a.verdict}`, 'data-key': `${a.kind}-${a.code}-${a.ids[0]}`},
    el('p', {}, verdict(isGrave(a) ? a.verdict : 'long'), ' ', `${a.kind} `,
      a.kind === 'launcher' ? `on ${a.ids[0]}` : a.ids.map((id, n) => [n > 0 && ', ', to(a.kind, id)]),
      a.count > a.ids.length && ` and ${number(a.count - a.ids.length)} more`,
      a.since && [el('span', {class: 'soft'}, ' since '), when(a.since)]),
    el('p', {}, a.sentence),
    a.ended_by && el('p', {class: 'soft'}, `Ended by: ${a.ended_by}`));
  const all = seen.attention.length;
  return section('Needs attention', {more: rest(all, most, 'attention')},
    list.length ? el('ul', {class: 'needs'}, list.map(item)) : el('p', {class: 'soft'}, 'Nothing: whatever waits, waits for what comes by itself.'),
    seen.more_attention > 0 && el('p', {class: 'soft'}, `and ${number(seen.more_attention)} more`));
}

function waiting(seen, most) {
  const open = (seen.requests.requested ?? 0) + (seen.requests.pending ?? 0);
  const reasons = seen.reasons.slice(0, most === Infinity ? Infinity : 8);
  return section('Waiting', {note: open > 0 && `${many(open, 'open request')}, the oldest first`,
    more: el('a', {href: address({page: 'requests'})}, 'All requests'), key: 'waiting'},
  table('Requests that have waited longest', [
    {name: 'Request', cell: (r) => to('request', r.id)},
    {name: 'Asked', cell: (r) => when(r.asked)},
    {name: 'Why', cell: (r) => el('span', {}, verdict(r.verdict), ' ', r.sentence)},
    {name: 'For', cell: (r) => when(r.since)},
    {name: 'Before it', number: true, cell: (r) => r.before ?? ''},
    {name: 'Labels', cell: (r) => some(r.labels, 'label')},
    {name: 'By', cell: (r) => r.requestor},
  ], seen.oldest.slice(0, most), {key: (r) => r.id, empty: 'No request is open.'}),
  reasons.length > 0 && el('details', {'data-key': 'reasons'}, el('summary', {}, `What they wait for, by pool (a request may wait in several)`),
    table('Reasons', [
      {name: 'Pool', cell: (w) => w.pool},
      {name: 'Requests', number: true, cell: (w) => w.requests},
      {name: 'Why', cell: (w) => el('span', {}, verdict(w.verdict), ' ', w.sentence)},
      {name: 'Code', cell: (w) => w.code},
      {name: 'First', cell: (w) => to('request', w.first)},
      {name: 'For', cell: (w) => when(w.since)},
    ], reasons, {key: (w) => `${w.pool} ${w.code}`})));
}

// Names, several of the same once with how many.
function some(names, kind) {
  const counts = new Map();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  return [...counts].map(([name, count], n) => [n > 0 && ', ', to(kind, name), count > 1 && ` ×${count}`]);
}

function bar({resource, limit, used, others}) {
  const told = limit === null ? `${number(used)} used` : `${number(used + others)} of ${number(limit)}`;
  const label = limit === null ? `${resource}: ${number(used)} used, no limit known`
    : `${resource}: ${number(used)} ours${others > 0 ? `, ${number(others)} others'` : ''}, of ${number(limit)}`;
  const part = (amount) => (limit > 0 ? Math.min(100, (100 * Math.max(0, amount)) / limit) : 0);
  return el('div', {class: 'bar', title: label, 'data-key': resource}, el('span', {}, resource),
    svg('svg', {viewBox: '0 0 100 8', preserveAspectRatio: 'none', role: 'img', 'aria-label': label},
      svg('rect', {class: 'ours', width: part(used), height: 8}),
      svg('rect', {class: 'others', x: part(used), width: Math.min(part(others), 100 - part(used)), height: 8})),
    el('span', {}, told));
}

function bars(amounts, none) {
  return amounts.length ? el('div', {class: 'bars'}, amounts.map(bar)) : el('span', {class: 'soft'}, none);
}

function providers(seen, most) {
  return section('Providers', {note: 'blue is ours, grey is others’ in the same project', more: rest(seen.providers.length, most, 'providers'), key: 'providers'},
    table('Providers', [
      {name: 'Provider', cell: (p) => to('provider', p.name)},
      {name: 'State', cell: (p) => el('span', {}, verdict(p.verdict), ' ', p.sentence, p.since && [' ', el('span', {class: 'soft'}, 'since '), when(p.since)])},
      {name: 'Quota', cell: (p) => bars(p.quota, 'no quota known')},
      {name: 'Pools', cell: (p) => p.pools.map((pool, at) => el('div', {'data-key': `${pool.name} ${pool.hostname} ${at}`},
        el('span', {}, pool.name, pool.is_paused && el('span', {class: 'soft'}, ' paused'), pool.out_of_service && el('span', {class: 'soft'}, ` ${pool.out_of_service}`),
          pool.waiting > 0 && el('span', {class: 'soft'}, `, ${many(pool.waiting, 'request')} waiting`)),
        pool.limits.length > 0 && bars(pool.limits, '')))},
      {name: 'Launching', number: true, cell: (p) => (p.max_concurrency === null ? p.launching : `${p.launching} of ${p.max_concurrency}`)},
    ], seen.providers.slice(0, most), {key: (p) => p.name, empty: 'No provider is configured.'}));
}

function labels(seen, most) {
  const busy = (l) => l.waiting * 1000 + l.served * 100 + l.ready + l.building + l.in_use + (l.ready < l.min_ready ? 1e6 : 0);
  const list = most === Infinity ? seen.labels : [...seen.labels].sort((a, b) => busy(b) - busy(a));
  return section('Supply', {note: 'nodes of each label, and who asks for them', more: rest(seen.labels.length, most, 'labels'), key: 'labels'},
    table('Labels', [
      {name: 'Label', cell: (l) => to('label', l.name)},
      {name: 'Ready', number: true, cell: (l) => l.ready},
      {name: 'Wanted ready', number: true, cell: (l) => l.min_ready},
      {name: 'Launching', number: true, cell: (l) => l.building},
      {name: 'In use', number: true, cell: (l) => l.in_use},
      {name: 'Held', number: true, cell: (l) => l.held},
      {name: 'Going', number: true, cell: (l) => l.going},
      {name: 'Requests waiting', number: true, cell: (l) => l.waiting},
      {name: 'Being served', number: true, cell: (l) => l.served},
      {name: 'Oldest', cell: (l) => when(l.oldest)},
      {name: 'Pools', number: true, cell: (l) => l.pools},
    ], list.slice(0, most), {key: (l) => l.name, empty: 'No pool has a label.'}));
}

function images(seen, most) {
  const grave = (i) => (i.verdict === 'fine' ? 1 : 0);
  const list = most === Infinity ? seen.images : [...seen.images].sort((a, b) => grave(a) - grave(b));
  return seen.images.length > 0 && section('Images', {more: rest(seen.images.length, most, 'images'), key: 'images'},
    table('Images', [
      {name: 'Image', cell: (i) => to('image', i.name)},
      {name: 'State', cell: (i) => el('span', {}, verdict(i.verdict), ' ', i.sentence)},
      {name: 'For', cell: (i) => when(i.since)},
      {name: 'Newest build', cell: (i) => when(i.built, true)},
      {name: 'In providers', number: true, cell: (i) => i.uploads},
    ], list.slice(0, most), {key: (i) => i.name}));
}

// What launchers have seen and done lately; null: they have not answered yet.
function activity(recent) {
  const events = recent?.events ?? [];
  const nothing = !recent ? 'The launchers are being asked.' : recent.error ? `The launcher does not say: ${recent.error}` : 'Nothing has happened that a launcher remembers.';
  return section('Recent activity', {note: 'of all launchers, the newest first', more: el('a', {href: './api/v1/history'}, 'As JSON'), key: 'activity'},
    table('Recent activity', [
      {name: 'When', cell: (e) => when(e.at, true)},
      {name: 'What', cell: (e) => e.text},
      {name: 'Request', cell: (e) => e.request && to('request', e.request)},
      {name: 'Nodes', cell: (e) => (e.nodes ?? []).slice(0, 4).map((id, n) => [n > 0 && ', ', to('node', id)])},
      {name: 'Labels', cell: (e) => some(e.labels ?? [], 'label')},
      {name: 'Provider', cell: (e) => e.provider && to('provider', e.provider)},
    ], events.slice(0, SHOWN), {key: (e) => `${e.launcher}-${e.number}-${e.at}`, empty: nothing}),
    (recent?.silent ?? []).map((s) => el('p', {class: 'note off', 'data-key': `activity-${s.hostname}-${s.pools.join()}`},
      `What only the launcher on ${s.hostname} (${s.pools.join(', ')}) has seen is missing: ${s.why}`)));
}

export const KINDS = ['request', 'node', 'label', 'image', 'provider'];

// What is asked about in an address: its kind ('id': whatever it is) and its id.
export function subject(query) {
  // A list has filters of these names.
  if (query.get('page')) return null;
  const kind = [...KINDS, 'id'].find((kind) => query.get(kind)?.trim());
  return kind ? [kind, query.get(kind).trim()] : null;
}

export async function details(kind, id) {
  const of = `./api/v1/explain/${encodeURIComponent(id)}`;
  try {
    const found = await get(kind === 'id' ? of : `${of}?kind=${kind}`);
    return [found].flat().flatMap(explained);
  } catch (error) {
    return [el('h1', {}, `${kind === 'id' ? '' : `${kind} `}${id}`), section('Nothing is known of it', {key: 'none'},
      el('p', {class: 'sentence'}, error.message),
      el('p', {class: 'soft'}, 'The id of a request is like 300-0000000123, that of a node like 0000000123; labels, images and providers have names.'))];
  }
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// Ids in what is told lead to their pages.
function linked(name, value) {
  const kinds = {request: 'request', 'oldest request': 'request', provider: 'provider', 'preferred provider': 'provider', 'boots from image': 'image'};
  if (kinds[name]) return to(kinds[name], value);
  if (name === 'labels') return value.split(', ').map((label, n) => [n > 0 && ', ', to('label', label)]);
  return value;
}

function named(name) {
  const node = /^node (\d+)$/.exec(name);
  if (node) return ['Node ', to('node', node[1])];
  const provider = /^in (.+)$/.exec(name);
  return provider ? ['In ', to('provider', provider[1])] : capital(name);
}

function explained(e) {
  return [
    el('h1', {'data-key': `title-${e.kind}-${e.id}`}, `${capital(e.kind)} `, el('span', {class: 'id'}, e.id)),
    el('section', {class: `answer is-${e.verdict}`, 'aria-label': 'Why', 'data-key': `why-${e.kind}`},
      el('p', {class: 'top'}, verdict(e.verdict), el('span', {class: 'soft'}, verdictMeans(e.verdict))),
      el('p', {class: 'sentence'}, `${e.sentence}.`),
      el('dl', {},
        e.since && [el('dt', {}, 'Since'), el('dd', {}, when(e.since, true), ' ', el('span', {class: 'soft'}, new Date(e.since * 1000).toLocaleString()))],
        e.ended_by && [el('dt', {}, 'Ended by'), el('dd', {}, e.ended_by)],
        e.before !== undefined && [el('dt', {}, 'Requests before it'), el('dd', {}, number(e.before))],
        [el('dt', {}, 'Code'), el('dd', {class: 'id'}, e.code)])),
    (e.pools ?? []).length > 0 && section('What each pool makes of it', {key: `pools-${e.kind}`}, table('Pools', [
      {name: 'Pool', cell: (p) => p.pool},
      {name: 'Says', cell: (p) => el('span', {}, verdict(p.is_out ? 'out' : p.verdict), ' ', p.sentence)},
      {name: 'For', cell: (p) => when(p.since)},
      {name: 'Ended by', cell: (p) => p.ended_by},
    ], e.pools, {key: (p) => p.launcher})),
    (e.facts ?? []).length > 0 && section('What is known', {key: `facts-${e.kind}`}, el('dl', {}, e.facts.map((f) => [
      el('dt', {}, named(f.name)),
      el('dd', {}, f.value && el('span', {}, linked(f.name, f.value)), f.value && f.at && ' ', f.at && when(f.at, true)),
    ]))),
    (e.silent ?? []).map((s) => el('p', {class: 'note off'}, `Not asked: the launcher on ${s.hostname} (${s.pools.join(', ')}): ${s.why}`)),
    el('p', {class: 'soft', 'data-key': `more-${e.kind}`}, e.kind === 'label' && [el('a', {href: address({page: 'nodes', label: e.id})}, 'Its nodes'), ' · ',
      el('a', {href: address({page: 'requests', label: e.id})}, 'its requests'), ' · '],
    e.kind === 'provider' && [el('a', {href: address({page: 'nodes', provider: e.id})}, 'Its nodes'), ' · '],
    el('a', {href: `./api/v1/explain/${encodeURIComponent(e.id)}?kind=${e.kind}`}, 'As JSON'), ' · ',
    el('a', {href: `./api/v1/history?${e.kind}=${encodeURIComponent(e.id)}`}, 'its history')),
  ];
}
