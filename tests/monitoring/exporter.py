"""What arrives in Prometheus of what our daemons send, by the operator's rules: which metrics, with which labels."""
import json
import re
import subprocess
import time

import mapping
from harness import ROOT
from lives import BUILDER_HOST, DOTTED_HOST, FAILING, LAUNCHER_HOST, READY, WAITING, labelled, value

STATES = ('aborted', 'building', 'deleted', 'deleting', 'failed', 'hold', 'in-use', 'init', 'ready', 'testing', 'used')
ZK = {'hostname': LAUNCHER_HOST}
ALL_READY = sum(READY.values()) + 1  # one of `tight`
DOTTED_LABEL = 'ubuntu-22.04'
WHO = {'requestor': 'zuul_example_8'}


def some(number):
    return number > 0


def any_number(number):
    return number >= 0


# (metric, labels, its value or what that must fulfil). Timers are summaries, in seconds.
ARRIVES = [
    ('nodepool_launch_ready_count', {}, ALL_READY),
    ('nodepool_launch_ready_sum', {}, some),
    *(('nodepool_launch_error_count', {'error': error}, 1) for error in ('capacity', 'keyscan', 'nodepool', 'quota')),
    ('nodepool_launch_provider_ready_count', {'provider': 'cloud-a', 'az': 'az1'}, READY['small'] + READY[DOTTED_LABEL]),
    ('nodepool_launch_provider_error_count', {'provider': 'cloud-full', 'az': 'az1', 'error': 'capacity'}, 1),
    ('nodepool_launch_provider_error_count', {'provider': 'cloud-mute', 'az': 'az1', 'error': 'keyscan'}, 1),
    ('nodepool_launch_provider_error_count', {'provider': 'cloud-short', 'az': 'az1', 'error': 'quota'}, 1),
    ('nodepool_launch_requestor_ready_count', WHO, ALL_READY),
    *(('nodepool_launch_requestor_error_count', {**WHO, 'error': error}, 1)
      for error in ('capacity', 'keyscan', 'nodepool', 'quota')),
    # One static host.
    *(('nodepool_nodes', {'state': state}, 1 if state == 'ready' else 0) for state in STATES),
    *(('nodepool_provider_nodes', {'provider': 'machines', 'state': state}, 1 if state == 'ready' else 0)
      for state in STATES),
    *(('nodepool_label_nodes', {'label': 'host', 'state': state}, 1 if state == 'ready' else 0) for state in STATES),
    *(('nodepool_label_nodes', {'label': 'small', 'state': state}, 0) for state in STATES),
    ('nodepool_provider_max_servers', {'provider': 'cloud-a'}, 20),
    ('nodepool_provider_pool_addressable_requests', {'provider': 'cloud-a', 'pool': 'main'}, 0),
    ('nodepool_tenant_limits', {'tenant': 'tenant_one', 'limit': 'cores'}, 64),
    ('nodepool_tenant_limits', {'tenant': 'tenant_one', 'limit': 'instances'}, 10),
    ('nodepool_tenant_limits', {'tenant': 'tenant_one', 'limit': 'ram'}, float('inf')),
    ('nodepool_provider_leaked_instances', {'provider': 'cloud-a'}, 1),
    ('nodepool_provider_leaked_ports', {'provider': 'cloud-a'}, 2),
    ('nodepool_launcher_zk_client_connection_queue', ZK, any_number),
    *((f'nodepool_launcher_zk_{cache}_cache_{queue}_queue', ZK, any_number)
      for cache in ('node', 'request', 'image') for queue in ('event', 'playback')),
    *(('nodepool_dib_image_build_size', {'diskimage': 'jammy', 'ext': ext}, some) for ext in ('raw', 'qcow2')),
    ('nodepool_dib_image_build_status_rc', {'diskimage': 'jammy'}, 0),
    ('nodepool_dib_image_build_status_rc', {'diskimage': 'broken'}, 3),
    ('nodepool_dib_image_build_status_duration_count', {'diskimage': 'noble'}, 1),
    ('nodepool_dib_image_build_status_last_build', {'diskimage': 'broken'}, some),
    ('nodepool_image_update_count', {'image': 'jammy', 'provider': 'cloud-a'}, 1),
    ('nodepool_image_update_sum', {'image': 'noble', 'provider': 'cloud-a'}, some),
    ('nodepool_image_build_requests', {}, 0),
    ('nodepool_image_image_build_requests', {'diskimage': 'jammy'}, 0),
    ('nodepool_builder_image_build_state', {'hostname': BUILDER_HOST, 'image': 'jammy'}, 0),
    ('nodepool_builder_image_provider_upload_state', {'hostname': BUILDER_HOST, 'image': 'jammy', 'provider': 'cloud-a'}, 0),
    # A dotted provider's launch without the zone looks like one of provider `cloud` in zone `dotted`, as with upstream.
    ('nodepool_launch_provider_ready_count', {'provider': 'cloud', 'az': 'dotted'}, 1),
]
# Documented, but nothing sends it.
NOT_SENT = {
    **{f'nodepool_builder_{name}': 'upstream documents it, and no release sends it'
       for name in ('current_builds', 'current_uploads', 'build_workers', 'upload_workers')},
    **{f'nodepool_launch_image_{result}': 'upstream documents it, and no release sends it' for result in ('ready', 'error')},
    'nodepool_provider_leaked': 'the heading of those below it',
    **{f'nodepool_provider_leaked_{kind}': 'of clouds that we have no driver for'
       for kind in ('amis', 'disks', 'nics', 'objects', 'pips', 'snapshots')},
    **{f'nodepool_provider_leaked_{kind}': 'sent as those of instances and ports; the simulated cloud has none that leak'
       for kind in ('floatingips', 'images', 'volumes')},
}
# What the rules drop of what we send, and why it is sent like that all the same.
DROPPED = {
    r'nodepool\.launch\.provider\.[^.]+\.(ready|error\.\w+)':
        'there is no rule for launches of a provider without the zone; upstream sends both, too',
    rf'nodepool\.builder\.{re.escape(DOTTED_HOST)}\.image\..*':
        "a builder's name is its full host name, dots and all, as upstream's: Graphite has it as a path",
    rf'nodepool\.label\.{re.escape(DOTTED_LABEL)}\.nodes\..*': 'a label with a dot, as upstream sends it',
    r'nodepool\.(launch\.)?provider\.cloud\.dotted\..*': 'a provider with a dot, as upstream sends it',
}
# Names that upstream does not have, so that no rule of the operator's can know them; /metrics has the same. They need not
# come in every life.
OURS = r'nodepool\.(provider|builder)\..+\.held_back\.\w+'


def rules_are_the_operators(site):
    done = subprocess.run(site.exporter.check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    nodepools = [rule for rule in site.rules if rule['match'].startswith('nodepool.')]
    assert len(nodepools) == 46, f'{len(nodepools)} rules: what upstream documents, or how it is read, has changed'


def every_metric_arrives_with_its_labels(site):
    wrong = []
    for name, labels, expected in ARRIVES:
        found = site.exported.get((name, tuple(sorted(labels.items()))))
        fits = found is not None and (expected(found) if callable(expected) else found == expected)
        if not fits:
            wrong.append(f'{name}{labels}: {found}, not {expected if not callable(expected) else expected.__name__}')
    assert not wrong, '\n'.join(wrong)


def every_documented_metric_is_sent_or_excused(site):
    arrived = {name.removesuffix('_count') for name, _ in site.exported}
    checked = {name.removesuffix('_count').removesuffix('_sum') for name, _, _ in ARRIVES}
    for rule in site.rules:
        name = rule['name']
        if not name.startswith('nodepool'):
            continue
        assert (name in arrived) != (name in NOT_SENT), f'{name}: {NOT_SENT.get(name, "has not arrived")}'
        assert name not in arrived or name in checked, f'{name} arrives and stands in no table'
    unknown = set(NOT_SENT) - {rule['name'] for rule in site.rules}
    assert not unknown, f'excused, but not documented: {unknown}'


def matches(rule, name):
    """As the exporter does it: `*` is one component."""
    parts, wanted = name.split('.'), rule['match'].split('.')
    return len(parts) == len(wanted) and all(w in ('*', part) for part, w in zip(parts, wanted, strict=True))


def what_is_dropped_is_listed(site):
    dropped = {line: n for line, n in site.lines.items() if not any(matches(rule, line[0]) for rule in site.rules)}
    for name, _ in dropped:
        assert any(re.fullmatch(pattern, name) for pattern in (*DROPPED, OURS)), f'{name} is dropped'
    for pattern, reason in DROPPED.items():
        assert any(re.fullmatch(pattern, name) for name, _ in dropped), f'{pattern} is not dropped any more: {reason}'
    counted = value(site.exported, 'statsd_exporter_events_actions_total', action='drop')
    assert counted == sum(dropped.values()), f'{counted} events were dropped, {sum(dropped.values())} of them listed'


def nothing_is_lost_otherwise(site):
    for name in ('events_unmapped_total', 'events_error_total', 'sample_errors_total', 'tag_errors_total',
                 'udp_packet_drops_total'):
        assert value(site.exported, f'statsd_exporter_{name}') == 0, name
    # One Prometheus metric cannot be a timer and a counter. The timer must come first: it counts, too.
    twice = sum(n for (name, kind), n in site.lines.items() if kind == 'c' and (name, 'ms') in site.lines
                and any(matches(rule, name) for rule in site.rules))
    conflicts = {kind: value(site.exported, 'statsd_exporter_events_conflict_total', type=kind)
                 for kind in ('counter', 'gauge', 'observer')}
    assert conflicts == {'counter': twice, 'gauge': 0, 'observer': 0}, f'{conflicts}, of {twice} counters beside timers'


def both_ways_say_the_same(site):
    """statsd through the exporter, and the launcher's own /metrics."""
    for mine, theirs in (
            (value(site.native, 'nodepool_launches_total', result='ready'), value(site.exported, 'nodepool_launch_ready_count')),
            (value(site.native, 'nodepool_launches_total') - ALL_READY, value(site.exported, 'nodepool_launch_error_count')),
            (value(site.native, 'nodepool_leaked_resources_total', provider='cloud-a', resource='ports'),
             value(site.exported, 'nodepool_provider_leaked_ports', provider='cloud-a'))):
        assert mine == theirs > 0, f'{mine} and {theirs}'
    assert value(site.exported, 'nodepool_launch_error_count') == len(FAILING) + 1, 'each label fails once, and one quota'
    # Both of these are there under one name: alerts and boards must not add them up.
    for name in ('nodepool_nodes', 'nodepool_label_nodes', 'nodepool_provider_nodes', 'nodepool_provider_max_servers'):
        native = {labels: v for (n, labels), v in site.native.items() if n == name}
        exported = {labels: v for (n, labels), v in site.exported.items() if n == name}
        differ = {labels: (v, native.get(labels)) for labels, v in exported.items() if v != native.get(labels)}
        assert exported and not differ, f'{name}: {differ}'


def since_when_things_are_so_is_told(site):
    """The launcher's own: what waits, what is old, what is not where it is wanted."""
    now, native = time.time(), site.native
    waiting = labelled(site.waiting, 'nodepool_oldest_request_timestamp_seconds')
    assert {dict(labels)['label'] for labels in waiting} == set(WAITING), waiting
    assert all(site.began <= since <= now for since in waiting.values()), waiting
    assert not labelled(native, 'nodepool_oldest_request_timestamp_seconds'), 'nothing waits any more'
    [ready] = labelled(native, 'nodepool_oldest_node_timestamp_seconds', provider='machines').items()
    assert dict(ready[0])['state'] == 'ready' and site.began <= ready[1] <= now, ready
    assert value(native, 'nodepool_builders') == 2, value(native, 'nodepool_builders')
    built = {dict(labels)['image']: at for labels, at in labelled(native, 'nodepool_image_built_timestamp_seconds').items()}
    assert 0 < built['jammy'] <= now and built['broken'] == 0, built
    failed = {dict(labels)['image']: at for labels, at in labelled(native, 'nodepool_image_failed_timestamp_seconds').items()}
    assert set(failed) == {'broken'} and 0 < failed['broken'] <= now, failed
    uploaded = {dict(labels)['provider']: at for labels, at in labelled(
        native, 'nodepool_image_uploaded_timestamp_seconds', image='jammy').items()}
    assert set(uploaded) == {'cloud-a', 'cloud-b'} and uploaded['cloud-a'] > 0 == uploaded['cloud-b'], uploaded
    paused = labelled(site.waiting, 'nodepool_pool_paused')
    assert {dict(labels)['provider'] for labels, is_so in paused.items() if is_so} == {'cloud-tight'}, paused
    assert len(paused) == 9, paused


def calls_of_clouds_are_named_as_openstacksdk_does():
    """The table that the openstack driver's tests hold its names against, held against openstacksdk itself."""
    from openstack.proxy import Proxy, normalize_metric_name

    class Named:
        _extract_name_consume_url_parts = Proxy._extract_name_consume_url_parts
    table = json.loads((ROOT / 'crates/drivers/src/openstack/client/sdk_names.json').read_text())
    assert len(table) > 20
    for path, expected in table:
        parts = Proxy._extract_name(Named(), f'https://cloud.example{path}', None, 'the-project')
        name = '_'.join(normalize_metric_name(part) for part in parts)
        assert name == expected, f'{path}: {name}, not {expected}'
        # What the operator's rule for these takes.
        assert matches(mapping.call_rule('clouds.one'), f'clouds.one.compute.GET.{name}.200'), name


STATIC_CASES = [calls_of_clouds_are_named_as_openstacksdk_does]
CASES = [rules_are_the_operators, every_metric_arrives_with_its_labels, every_documented_metric_is_sent_or_excused,
         what_is_dropped_is_listed, nothing_is_lost_otherwise, both_ways_say_the_same,
         since_when_things_are_so_is_told]
