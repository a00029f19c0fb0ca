"""What goes wrong in a cloud, done to a real one: every request is answered, and nothing of ours is left in it.

A fault is real where one project can have it alone (quota, a server that fails or vanishes, a revoked token, nova-api
killed); where it would hit everybody on the cloud for long, a proxy before the service plays it.
"""
import time

from cloud import LOOK, Cloud, answered, ctl, give_back, lose_creations, nothing_left, serve, tell
from harness import wait_for
from harness.faults import answer
from harness.statsd import Statsd
from world import check, passed

# Of each kind of resource that can be left behind.
MIXED = ['np-tiny'] * 4 + ['np-public'] * 2 + ['np-volume'] * 2
KINDS = ('np-tiny', 'np-public', 'np-volume')
# At most, until Nova has accepted a server of ours that there was no room for.
RACES = 8


def fault_nova_killed(world):
    cloud = Cloud(world)
    cloud.launcher(cloud.provider(labels=KINDS, properties={'np_spawn_delay': '2'}))

    def kill():
        wait_for('in the making: three servers', lambda: len(cloud.our_servers()) >= 3, 180, LOOK)
        ctl('kill', 'nova-api')
        try:
            time.sleep(5)
        finally:
            ctl('start', 'nova-api')
    serve(world, cloud, MIXED + ['np-tiny'] * 2, meanwhile=kill)


def fault_creation_cut_off(world):
    """Nova's API ends in the middle of a creation: it has noted the server, its conductor never hears of it.

    When an API process is killed, this happens now and then (`fault-nova-killed`); here for certain.
    """
    cloud = Cloud(world)
    cloud.launcher(cloud.provider(**{'launch-retries': 1}))
    serve(world, cloud, ['np-tiny'])
    cloud.forget_calls()
    cloud.proxies['compute'].rules({'method': 'POST', 'path': '/v2.1/servers', 'times': 1, 'fault': 'cut_after'})

    def cut_off():
        wait_for('in the cloud: the server', cloud.our_servers, 180, LOOK)
        lose_creations()
        ctl('start', 'nova-conductor')
    ctl('kill', 'nova-conductor')
    try:
        started = time.monotonic()
        served, _ = serve(world, cloud, ['np-tiny'], meanwhile=cut_off)
    finally:
        ctl('start', 'nova-conductor')
    check(len(served) == 1, 'a creation that was cut off within Nova cost a request')
    posts = cloud.calls()['compute POST /v2.1/servers']
    check(sum(posts.values()) == 2, f'POST /servers ended {posts}')
    passed(f'given up and made anew: {time.monotonic() - started:.0f} s')


def fault_keystone_down(world):
    cloud = Cloud(world)
    cloud.launcher(cloud.provider())
    serve(world, cloud, ['np-tiny'])

    # Without Keystone a token that Nova takes still serves.
    cloud.refuse_tokens()
    cloud.proxies['identity'].down()
    requests = [world.zuul.request(['np-tiny']) for _ in range(5)]
    time.sleep(60)
    ended = sum(r.id in world.zuul.provisioned() for r, _ in requests)
    cloud.proxies['identity'].up()
    started = time.monotonic()
    served, reasons = answered(world, requests, 600)
    passed(f'{ended} of 5 ended in the 60 s, the rest in {time.monotonic() - started:.0f} s after them')
    give_back(world, served)
    nothing_left(world, cloud)
    tell(served, reasons, cloud)
    serve(world, cloud, ['np-tiny'])


def fault_tokens(world):
    cloud = Cloud(world)
    cloud.launcher(cloud.provider(labels=KINDS))
    serve(world, cloud, ['np-tiny'])
    refused = cloud.refuse_tokens()
    served, _ = serve(world, cloud, MIXED)
    check(cloud.faults(), 'no call carried a token that is refused')
    check(len(served) == len(MIXED), 'a token that is refused cost a request')
    passed(f'{refused} tokens were refused by Nova from then on, in {cloud.faults()} calls')
    revoked = cloud.revoke()
    cloud.forget_calls()
    served, _ = serve(world, cloud, ['np-tiny'] * 3)
    check(len(served) == 3, 'a token that Keystone has revoked cost a request')
    refused = sum(ends.get('401', 0) for ends in cloud.calls().values())
    passed(f'{revoked} tokens revoked in Keystone, {refused} calls refused for it')


def fault_storms(world):
    cloud = Cloud(world)
    cloud.launcher(cloud.provider(labels=KINDS))
    for name, fault in (('503', answer(503)), ('429', answer(429, Retry_After=2))):
        for service in ('compute', 'network', 'block_storage', 'identity'):
            cloud.proxies[service].rules({'path': '**', 'probability': 0.5, 'times': 20, 'seed': 1, 'fault': fault})
        started = time.monotonic()
        served, _ = serve(world, cloud, MIXED)
        check(len(served) == len(MIXED), f'half of the calls answered {name}: requests were lost')
        passed(f'half of the calls answered {name}: {time.monotonic() - started:.0f} s')
        cloud.forget_calls()


def fault_hangs(world):
    cloud = Cloud(world)
    cloud.launcher(cloud.provider(labels=KINDS))
    for service, paths in (('compute', ('/v2.1/servers', '/v2.1/servers/detail', '/v2.1/servers/*')),
                           ('network', ('/v2.0/ports', '/v2.0/floatingips', '**'))):
        cloud.proxies[service].rules(*({'path': p, 'times': 1, 'fault': {'hang': 30}} for p in paths))
    started = time.monotonic()
    serve(world, cloud, MIXED)
    passed(f'calls to Nova and Neutron that hang for 30 s: {time.monotonic() - started:.0f} s')


def fault_lost_answers(world):
    cloud = Cloud(world)
    cloud.launcher(cloud.provider(labels=KINDS))
    lost = [('compute', 'POST', '/v2.1/servers', 3), ('compute', 'DELETE', '/v2.1/servers/*', 3),
            ('network', 'POST', '/v2.0/floatingips', 1), ('network', 'PUT', '/v2.0/floatingips/*', 1),
            ('network', 'DELETE', '/v2.0/floatingips/*', 1), ('identity', 'POST', '**', 1)]
    for service in ('compute', 'network', 'identity'):
        cloud.proxies[service].rules(*({'method': method, 'path': path, 'times': times, 'fault': 'cut_after'}
                                       for s, method, path, times in lost if s == service))
    served, _ = serve(world, cloud, MIXED)
    check(len(served) == len(MIXED), 'a lost answer cost a request')
    ends = cloud.calls().get('compute POST /v2.1/servers', {})
    passed(f'POST /servers ended {ends} for {len(MIXED)} nodes')


def fault_servers(world):
    """Servers that fail, once and for ever, and servers that somebody deletes."""
    cloud = Cloud(world)
    bad = cloud.provider(f'{cloud.name}-bad', labels=['np-volume'], properties={'np_spawn_fail': 'abort'})
    good = cloud.provider(labels=['np-tiny', 'np-public'], properties={'np_spawn_delay': '12'})
    launcher = cloud.launcher(good, bad)
    served, reasons = serve(world, cloud, ['np-volume'])
    check(not served and reasons, 'a server that always fails was given out')
    check('np_spawn_fail' in reasons[0] or 'ERROR' in reasons[0], f"the reason does not have Nova's: {reasons[0]}")

    def strike():
        """The first attempt of each: one goes to ERROR, one is deleted in BUILD, and so on."""
        building = wait_for('building: four servers',
                            lambda: len(s := [s for s in cloud.our_servers() if s['status'] == 'BUILD']) >= 4 and s, 180,
                            LOOK)
        for index, server in enumerate(building[:4]):
            cloud.fate(server['id']) if index % 2 else cloud.delete_servers([server['id']])
    served, _ = serve(world, cloud, ['np-tiny'] * 2 + ['np-public'] * 2, meanwhile=strike)
    check(len(served) == 4, 'a server that failed or vanished in BUILD cost a request')
    passed('two servers went to ERROR and two were deleted in BUILD')

    # Behind our back while READY: Zuul has not locked it yet. What matters is that it does not stay for ever.
    [(request, nodeset)] = [world.zuul.request(['np-tiny'])]
    done = world.zuul.wait(request, 300)
    cloud.delete_servers(s['id'] for s in cloud.our_servers())
    wait_for('gone: the server', lambda: not cloud.our_servers(), 180, LOOK)
    world.zuul.accept(done, nodeset)
    give_back(world, [nodeset])
    nothing_left(world, cloud)
    check(launcher.running(), 'the launcher has ended')
    passed('a node whose server was deleted while READY was given back and removed')


def fault_quota(world):
    """Somebody else in the project has most of the quota, frees it, and takes what was ours a moment ago."""
    cloud = Cloud(world, instances=3)
    others = cloud.other_user(2)
    check(len(others) == 2, f'{len(others)} servers of the other user for a quota of 3')
    cloud.launcher(cloud.provider())
    requests = [world.zuul.request(['np-tiny']) for _ in range(3)]
    wait_for('fulfilled: the one request that there is room for',
             lambda: any(r.id in world.zuul.provisioned() for r, _ in requests), 600)
    time.sleep(8)
    check(len(cloud.our_servers()) == 1, 'a server beyond the quota')
    check(sum(r.id in world.zuul.provisioned() for r, _ in requests) == 1, 'a request ended for lack of quota')
    cloud.delete_servers(others)
    started = time.monotonic()
    served, reasons = answered(world, requests, 600)
    check(len(served) == 3, f'requests failed for lack of quota: {reasons}')
    passed(f'the other user freed the quota: the rest fulfilled {time.monotonic() - started:.0f} s later')
    give_back(world, served)
    nothing_left(world, cloud)

    # Both at once: Nova accepts more than there is room for, and the surplus ends in ERROR.
    cloud.quota(6)
    cloud.forget_calls()
    time.sleep(16)  # until the launcher may ask for its quota anew
    requests = [world.zuul.request(['np-tiny']) for _ in range(6)]
    others = cloud.other_user(4)
    time.sleep(15)
    cloud.delete_servers(others)
    served, reasons = answered(world, requests, 600)
    check(len(served) == 6, f'requests failed for lack of quota: {reasons}')
    give_back(world, served)
    nothing_left(world, cloud)
    ours, theirs = cloud.lost_to_quota()
    passed(f'{len(others)} servers of another user beside 6 of ours at a quota of 6: POST /servers ended '
           f'{cloud.calls().get("compute POST /v2.1/servers")}, {ours} servers of ours and {theirs} of theirs in ERROR '
           'for quota')


def fault_quota_race(world):
    """Several users create at the same moment: Nova accepts what there is no room for, and then takes it back.

    Its API counts servers that have reached a cell's database, so everybody who asks before the first one got there is
    answered 202; its conductor counts again once the server is there, and sends it to ERROR. Who loses is up to Nova.
    """
    quota = 6
    cloud = Cloud(world, instances=quota)
    statsd = world.stack.enter_context(Statsd())
    # With a single attempt, a loss that counted as one would cost its request.
    cloud.launcher(cloud.provider(**{'launch-retries': 1}), env=statsd.env())
    serve(world, cloud, ['np-tiny'])
    others = cloud.other_users(quota)
    cloud.forget_calls()

    for turn in range(1, RACES + 1):
        requests = [world.zuul.request(['np-tiny']) for _ in range(quota)]
        theirs = others()
        wait_for('decided: what becomes of each server', lambda: all(s['status'] != 'BUILD' for s in cloud.servers()),
                 120, LOOK)
        cloud.delete_servers(theirs)
        served, reasons = answered(world, requests, 600)
        check(len(served) == quota, f'requests failed for lack of quota: {reasons}')
        give_back(world, served)
        nothing_left(world, cloud)
        wait_for('gone: the servers of others', lambda: not cloud.servers(), 120, LOOK)
        ours_lost, theirs_lost = cloud.lost_to_quota()
        posts = cloud.calls().get('compute POST /v2.1/servers', {})
        passed(f'race {turn}: {quota} requests, {len(theirs)} servers of others accepted, at a quota of {quota}; so far '
               f'POST /servers of ours ended {posts}, and {ours_lost} of ours and {theirs_lost} of theirs were accepted '
               'and went to ERROR for quota')
        if ours_lost:
            break
    check(ours_lost, f'in {RACES} races no server of ours was accepted and then went to ERROR for quota')
    launches = {name: count for name, count in statsd.counters('nodepool.launch.').items()
                if name == 'ready' or name.startswith('error.')}
    passed(f'all requests fulfilled with one attempt each, nothing left; launches ended {launches}')
    beyond = ours_lost + posts.get('403', 0)
    check(launches == {'ready': launches['ready'], 'error.quota': beyond},
          f'of {beyond} launches beyond the quota, not all ended for it: {launches}')


def fault_quota_taken(world):
    """Somebody else has all of it. Upstream declines then; here requests are to wait."""
    cloud = Cloud(world, instances=3)
    others = cloud.other_user(3)
    cloud.launcher(cloud.provider())
    requests = [world.zuul.request(['np-tiny']) for _ in range(3)]
    time.sleep(8)
    cloud.delete_servers(others)
    served, reasons = answered(world, requests, 600)
    give_back(world, served)
    nothing_left(world, cloud)
    tell(served, reasons, cloud)
    check(len(served) == 3, 'requests failed for lack of quota')


SCENARIOS = (fault_nova_killed, fault_creation_cut_off, fault_keystone_down, fault_tokens, fault_storms, fault_hangs, fault_lost_answers,
             fault_servers, fault_quota)
# Not among those that run by themselves: it may take several races, and what is to be done then is not decided.
BY_NAME = (fault_quota_race, fault_quota_taken)
