"""The way of docs/migration.md: Python Nodepool's launcher and builder, then ours, then Python Nodepool's again."""
import json

from builder_clouds import clouds_file, provider
from cloud import OFTEN, Cloud, give_back, nothing_left
from harness import records, wait_for
from images import Site, quiet, images_of
from world import FULFILLED, Skip, check, passed


def migration(world):
    """At each change a node is in use, one is ready and a request waits: all are served, and no image is built again."""
    if world.python:
        raise Skip('both are run')
    cloud = Cloud(world)
    env = clouds_file(world, cloud)
    boots = cloud.provider()
    del boots['cloud-images']
    [label] = boots['pools'][0]['labels']
    label['diskimage'] = 'image'
    del label['cloud-image']
    boots['diskimages'] = provider(cloud, 'image')['diskimages']
    runs = world.directory / 'runs'
    image = {'name': 'image', 'formats': ['raw'], 'username': 'somebody',
             'env-vars': {'CHECKSUMS': 'yes', 'RUNS': str(runs)}}
    site = Site(world, 'migration', [image], [boots], labels=['np-tiny'], label={'min-ready': 1})

    def start(python):
        builder = site.start(python=python, env=env)
        launcher = world.launcher(site.config, python=python, env=env, arguments=[] if python else OFTEN)
        return builder, launcher

    def ready():
        return {i for i, node in records.nodes(site.client).items()
                if node['state'] == 'ready' and not node['allocated_to']}

    def images():
        return {'/'.join(key): record['external_id'] for key, record in records.uploads(site.client).items()}

    def taken(request, nodeset):
        """Zuul's job runs on it from now on; the node's id."""
        done = world.zuul.wait(request, 300)
        check(done.state == FULFILLED, f'request {request.id} ended {done.state}')
        world.zuul.accept(done, nodeset)
        world.zuul.use(nodeset)
        [node] = nodeset.getNodes()
        return node.id

    def exchange(old, python):
        """Stops the two, lets Zuul ask meanwhile, starts the other two; returns those and the request."""
        for daemon in old:
            check(daemon.stop() == 0, f'{daemon.command[0]} did not end with status 0: {daemon.tail()}')
        asked = world.zuul.request(['np-tiny'])
        return start(python), asked

    daemons = start(python=True)
    wait_for('ready: the image', lambda: images() and all(images().values()), 120)
    quiet([site], images_of(cloud))
    before = images()
    for python, whose in ((False, 'ours'), (True, "Python Nodepool's")):
        request, working = world.zuul.request(['np-tiny'])
        node = taken(request, working)
        [spare] = wait_for('ready: a spare node', lambda: ready() or None, 300)
        daemons, (request, nodeset) = exchange(daemons, python)
        check(taken(request, nodeset) == spare, 'the ready node was not given to the request that waited')
        state = records.nodes(site.client)[node]['state']
        check(state == 'in-use', f'the node of the running job is {state}')
        servers = {s['metadata']['nodepool_node_id'] for s in cloud.our_servers()}
        check({node, spare} <= servers, f'servers are there for {servers}, not for {node} and {spare}')
        give_back(world, [working, nodeset])
        wait_for('deleted: what Zuul has given back', lambda: not {node, spare} & records.nodes(site.client).keys(), 300)
        passed(f'{whose} took over: node {node} stayed in use, ready node {spare} went to the request that waited; both '
               'deleted when given back')
    check(images() == before, f'images were {before}, are {images()}')
    check(len(runs.read_text().split()) == 1, f'the image was built {len(runs.read_text().split())} times')
    passed('one build and one upload from beginning to end')

    # What is kept ready goes, to see that nothing is left.
    configuration = json.loads(site.config.read_text())
    for entry in configuration['labels']:
        entry.update({'min-ready': 0, 'max-ready-age': 5})
    site.config.write_text(json.dumps(configuration))
    world.zuul.wait_until_empty(300)
    configuration['providers'][0].update({'diskimages': [], 'pools': []})
    configuration['diskimages'] = []
    site.config.write_text(json.dumps(configuration))
    nothing_left(world, cloud, 300)


SCENARIOS = (migration,)
