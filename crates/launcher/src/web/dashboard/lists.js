// All nodes and all requests: what is shown of them, and in which order, stands in the address. All rows are here, a hundred are
// drawn.

import {address, el, get, many, number, section, table, to, when} from './dom.js';

const DRAWN = 100;

const links = (kind, names) => (names ?? []).map((name, n) => [n > 0 && ', ', to(kind, name)]);

export const LISTS = {
  requests: {
    title: 'Requests', path: './api/v1/requests', one: 'request', filters: ['state', 'label', 'requestor', 'waits_for'], order: 'asked',
    columns: [
      {name: 'Request', key: 'id', cell: (r) => to('request', r.id)},
      {name: 'State', key: 'state', cell: (r) => r.state},
      {name: 'Asked', key: 'asked', cell: (r) => when(r.asked)},
      {name: 'Waits for', key: 'waits_for', cell: (r) => r.waits_for},
      {name: 'Labels', key: 'labels', cell: (r) => links('label', r.labels)},
      {name: 'Priority', key: 'priority', number: true, cell: (r) => r.priority},
      {name: 'Tenant', key: 'tenant', cell: (r) => r.tenant},
      {name: 'By', key: 'requestor', cell: (r) => r.requestor},
      {name: 'Nodes', key: 'nodes', cell: (r) => links('node', r.nodes)},
    ],
  },
  nodes: {
    title: 'Nodes', path: './api/v1/nodes', one: 'node', filters: ['state', 'label', 'provider', 'locked'], order: 'id',
    columns: [
      {name: 'Node', key: 'id', cell: (n) => to('node', n.id)},
      {name: 'State', key: 'state', cell: (n) => n.state},
      {name: 'For', key: 'since', cell: (n) => when(n.since)},
      {name: 'Locked', key: 'locked', cell: (n) => n.locked},
      {name: 'Labels', key: 'labels', cell: (n) => links('label', n.labels)},
      {name: 'Provider', key: 'provider', cell: (n) => n.provider && to('provider', n.provider)},
      {name: 'Pool', key: 'pool', cell: (n) => n.pool},
      {name: 'Request', key: 'request', cell: (n) => n.request && to('request', n.request)},
      {name: 'Address', key: 'address', cell: (n) => n.address},
      {name: 'Held for', key: 'comment', cell: (n) => n.comment},
    ],
  },
};

const NAMES = {state: 'State', label: 'Label', provider: 'Provider', requestor: 'By', waits_for: 'Waits for', locked: 'Locked'};

export async function load(list) {
  const {columns, rows} = await get(list.path);
  return rows.map((values) => {
    const row = Object.fromEntries(columns.map((name, at) => [name, values[at]]));
    if ('locked' in row) row.locked = row.locked ? 'yes' : 'no';
    // What a search looks at.
    row.text = values.flat().filter((value) => typeof value === 'string').join('\n').toLowerCase();
    return row;
  });
}

const values = (row, filter) => (filter === 'label' ? row.labels ?? [] : [row[filter] ?? '']);

export function shown(list, rows, query) {
  const words = (query.get('q') ?? '').toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = list.filters.map((filter) => [filter, query.get(filter)]).filter(([, value]) => value);
  const found = rows.filter((row) => wanted.every(([filter, value]) => values(row, filter).includes(value))
    && words.every((word) => row.text.includes(word)));
  const by = list.columns.some((c) => c.key === query.get('sort')) ? query.get('sort') : list.order;
  const sign = query.get('dir') === 'down' ? -1 : 1;
  const of = (row) => { const value = row[by]; return Array.isArray(value) ? value.join() : value; };
  const compare = (a, b) => {
    const [x, y] = [of(a) ?? null, of(b) ?? null];
    if (x === y) return 0;
    // What has none comes last, in whichever order.
    if (x === null || y === null) return x === null ? 1 : -1;
    return sign * (typeof x === 'number' && typeof y === 'number' ? x - y : String(x) < String(y) ? -1 : 1);
  };
  return [found.sort(compare), by, sign];
}

export function page(name, rows, query) {
  const list = LISTS[name];
  const [found, by, sign] = shown(list, rows, query);
  const own = Object.fromEntries(query);
  const last = Math.max(0, Math.ceil(found.length / DRAWN) - 1);
  const at = Math.min(Math.max(0, Number.parseInt(query.get('at') ?? '0', 10) || 0), last);
  const heads = list.columns.map((c) => {
    const dir = c.key === by && sign === 1 ? 'down' : '';
    return el('th', {role: 'columnheader', scope: 'col', class: c.number && 'number', 'aria-sort': c.key === by ? (sign === 1 ? 'ascending' : 'descending') : null},
      el('a', {href: address({...own, sort: c.key, dir, at: ''}), title: `Order by ${c.name}`}, c.name, c.key === by ? (sign === 1 ? ' ↑' : ' ↓') : ''));
  });
  const filter = (key) => {
    const counts = new Map();
    for (const row of rows) for (const value of new Set(values(row, key))) if (value) counts.set(value, (counts.get(value) ?? 0) + 1);
    const chosen = query.get(key) ?? '';
    if (chosen && !counts.has(chosen)) counts.set(chosen, 0);
    return el('label', {'data-key': key}, NAMES[key], el('select', {name: key, 'data-value': chosen}, el('option', {value: '', selected: !chosen}, 'any'),
      [...counts].sort(([a], [b]) => (a < b ? -1 : 1)).map(([value, count]) =>
        el('option', {value, selected: value === chosen}, `${value} (${number(count)})`))));
  };
  const pages = last > 0 && el('nav', {class: 'pages', 'aria-label': 'Parts of the list'},
    at > 0 && el('a', {href: address({...own, at: at - 1})}, 'Before'),
    el('span', {}, `${number(at * DRAWN + 1)} to ${number(Math.min(found.length, (at + 1) * DRAWN))} of ${number(found.length)}`),
    at < last && el('a', {href: address({...own, at: at + 1})}, 'Next'));
  return [
    el('h1', {}, list.title),
    el('section', {'aria-label': 'Filters', 'data-key': 'filters'}, el('form', {class: 'filters', id: 'filters', action: './', method: 'get'},
      el('input', {type: 'hidden', name: 'page', value: name}),
      el('label', {class: 'wide'}, 'Search', el('input', {name: 'q', type: 'search', value: query.get('q') ?? '', autocomplete: 'off', spellcheck: 'false'})),
      list.filters.map(filter))),
    section(found.length === rows.length ? `All ${many(rows.length, list.one)}` : `${number(found.length)} of ${many(rows.length, list.one)}`, {key: 'list'},
      table(list.title, list.columns, found.slice(at * DRAWN, (at + 1) * DRAWN), {key: (row) => row.id, heads, empty: 'Nothing is like that.'}), pages),
  ];
}
