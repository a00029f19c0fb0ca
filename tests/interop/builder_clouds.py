"""Our builder on a real OpenStack: beside Python Nodepool's, and with a launcher that boots what it has uploaded."""
import json
import re
import shutil

from cloud import OFTEN, Cloud, give_back, nothing_left
from harness import records, wait_for
from images import Site, check_quiet_locks, images_of, quiet
from world import FULFILLED, check, passed

IMAGES = ('image-a', 'image-b', 'image-c', 'image-d')
ROUNDS = 5


def clouds_file(world, cloud):
    """A clouds.yaml that says in which format the cloud wants its images; as environment."""
    path = world.directory / 'clouds.yaml'
    path.write_text(json.dumps({'clouds': {'npcloud': {**cloud.settings(), 'image_format': 'raw'}}}))
    return {'OS_CLIENT_CONFIG_FILE': str(path)}


def provider(cloud, *images, name=None):
    return {'name': name or cloud.name, 'driver': 'openstack', 'cloud': 'npcloud', 'region-name': 'RegionOne',
            'diskimages': [{'name': image, 'meta': {'np_purpose': 'tests'}} for image in images], 'pools': []}


def complaints(builder):
    """The warnings and errors in a log. A traceback counts once."""
    found = {}
    for line in builder.log.read_text().splitlines():
        if match := re.match(r'(\S+ \S+) (ERROR|WARNING) (\S+): (.*)', line):
            found.setdefault((match[1], match[3]), []).append(match[4])
    return ['\n'.join(lines) for lines in found.values()]


def builder_beside_python(world):
    cloud = Cloud(world)
    env = clouds_file(world, cloud)
    runs = world.directory / 'runs'
    images = [{'name': name, 'formats': ['raw'], 'metadata': {'np_kind': name}, 'env-vars': {
        'RUNS': str(runs), 'ALONE': str(world.directory / f'{name}.runs'), 'STEPS': '3', 'STEP_SECONDS': '0.5',
        'CHECKSUMS': 'yes'}} for name in IMAGES]
    ours, theirs = (Site(world, name, images, [provider(cloud, *IMAGES)]) for name in ('ours', 'python'))
    images_in = images_of(cloud)
    # Upstream stumbles over its own race when two builders see an image without any build.
    our_builder = ours.start(python=False, env=env, ours=['--cleanup-interval', 2])
    wait_for('ready: a first build of each image', lambda: all(ours.ready_builds(i) for i in IMAGES), 120)
    their_builder = theirs.start(python=True, env=env)
    newest = {}
    for _ in range(ROUNDS):
        before = {image: ours.ready_builds(image)[-1] for image in IMAGES}
        for image in IMAGES:
            ours.build(image)

        def served(before=before):
            return all(not ours.is_asked_for(i) and ours.ready_builds(i)[-1] != before[i] for i in IMAGES)
        wait_for('built: all that was asked for', served, 120)
        newest = {image: ours.ready_builds(image)[-1] for image in IMAGES}
    quiet([ours, theirs], images_in, timeout=120)
    check({i: ours.ready_builds(i)[-1] for i in IMAGES} == newest, 'something was built that nobody had asked for')

    made = {}
    for path in runs.read_text().split():
        [site] = [s for s in (ours, theirs) if path.startswith(f'{s.images_dir}/')]
        made.setdefault(site.name, []).append(path.rpartition('/')[2])
    counts = {image: sum(build.startswith(f'{image}-') for builds in made.values() for build in builds)
              for image in IMAGES}
    check(set(counts.values()) == {ROUNDS + 1}, f'{ROUNDS + 1} builds of each image were wanted: {counts}')
    shares = {name: len(builds) for name, builds in made.items()}
    check(len(shares) == 2 and min(shares.values()) >= 3, f'one builder did nearly all: {shares}')
    passed(f'{(ROUNDS + 1) * len(IMAGES)} builds for {len(IMAGES)} images without any and {ROUNDS * len(IMAGES)} requests: '
           f'{shares["ours"]} ours, {shares["python"]} by Python Nodepool; never two of an image at once')

    # What each says of its uploads.
    uploaded = {}
    for name, builder, words in (
            ('ours', our_builder, r'Uploading build ([0-9a-f]{32}) of image (\S+) to provider'),
            ('python', their_builder, r'Uploading DIB image build ([0-9a-f]{32}) from \S*/(image-.)-[0-9a-f]{32}\.')):
        uploaded[name] = [f'{image}-{build}' for build, image in re.findall(words, builder.log.read_text())]
        others = set(uploaded[name]) - set(made[name])
        check(not others, f'{name} uploaded what it had not built: {others}')
        check(len(set(uploaded[name])) == len(uploaded[name]), f'{name} uploaded a build twice: {uploaded[name]}')
    passed(f'uploads: {len(uploaded["ours"])} ours, {len(uploaded["python"])} by Python Nodepool, each of its own files, '
           'none twice')
    deleted = {}
    for builder, name in ((our_builder, 'ours'), (their_builder, 'python')):
        gone = set(re.findall(r'Deleting image build (\S+) from', builder.log.read_text()))
        deleted[name] = f'{len(gone & set(made[name]))} of its own builds and {len(gone - set(made[name]))} of the other'
    passed(f'uploads deleted: by ours {deleted["ours"]}, by Python Nodepool {deleted["python"]}')

    documents = cloud.images()
    keys = {name: {key for document in documents.values() if document['name'].rpartition('-')[0] and any(
        document['nodepool_build_id'] in build for build in made[name]) for key in document} for name in made}
    passed(f'{len(documents)} images in Glance with records and files; properties that only one of both sets: '
           f'ours {sorted(keys["ours"] - keys["python"])}, Python Nodepool {sorted(keys["python"] - keys["ours"])}')
    for name, builder in (('Python Nodepool', their_builder), ('ours', our_builder)):
        said = complaints(builder)
        check(not said, f'{name} complained: {said[:3]}')
    passed('neither builder logged a warning or an error')
    check_quiet_locks(ours.client)


def builder_openstack(world):
    cloud = Cloud(world)
    env = clouds_file(world, cloud)
    boots = cloud.provider('cloud-a')
    del boots['cloud-images']
    for pool in boots['pools']:
        for label in pool['labels']:
            label['diskimage'] = 'image'
            del label['cloud-image']
    boots['diskimages'] = provider(cloud, 'image')['diskimages']
    other = provider(cloud, 'image', name='cloud-b')
    image = {'name': 'image', 'formats': ['raw'], 'metadata': {'np_kind': 'image'}, 'username': 'somebody',
             'env-vars': {'CHECKSUMS': 'yes'}}
    site = Site(world, 'builder', [image], [boots, other], labels=['np-tiny'])
    images_in = images_of(cloud)
    builder = site.start(env=env, ours=['--cleanup-interval', 1])
    wait_for('ready: the first build', lambda: site.ready_builds('image'), 60)
    quiet([site], images_in)
    [first] = site.ready_builds('image')
    [upload] = [key for key in records.uploads(site.client) if key[2] == 'cloud-a']
    external = records.uploads(site.client)[upload]['external_id']
    document = cloud.images()[external]
    size = (site.images_dir / '{}-{}.raw'.format(*first)).stat().st_size
    check((document['status'], document['disk_format'], document['size']) == ('active', 'raw', size), document)
    wanted = {'np_kind': 'image', 'np_purpose': 'tests', 'nodepool_build_id': first[1], 'nodepool_upload_id': upload[3],
              'nodepool_provider_name': 'cloud-a'}
    check({key: document.get(key) for key in wanted} == wanted, document)
    passed(f'Glance has {document["name"]} twice, {size} bytes, MD5 {document["checksum"]}')

    config = shutil.copy(site.config, world.directory / 'launcher.yaml')
    launcher = world.launcher(config, env=env, arguments=[] if world.python else OFTEN)
    request, nodeset = world.zuul.request(['np-tiny'])
    done = world.zuul.wait(request, 300)
    check(done.state == FULFILLED, f'the request ended {done.state}')
    world.zuul.accept(done, nodeset)
    world.zuul.use(nodeset)
    [node] = nodeset.getNodes()
    record = records.nodes(site.client)[node.id]
    check(record['image_id'] == records.upload_path(upload), f'image_id is {record["image_id"]}, the upload is {upload}')
    check(node.username == 'somebody', f'username {node.username}')
    [server] = cloud.our_servers()
    check(server['image']['id'] == external, f'the server runs from {server["image"]}, the upload is {external}')
    passed(f'node {node.id} runs on server {server["id"]} from it: {record["image_id"]}')

    for _ in range(2):
        before = site.ready_builds('image')[-1]
        site.build('image')
        wait_for('ready: a newer build', lambda before=before: site.ready_builds('image')[-1] != before)
        quiet([site], images_in, [upload])
    check(external in cloud.images(), 'the image of a running node was deleted')
    passed('two newer builds: the first went from the other provider, and stays where the node runs from it')
    give_back(world, [nodeset])
    quiet([site], images_in, timeout=120)
    check(external not in cloud.images(), 'the image stays though nothing runs from it')
    passed('the node gone, the first build, its files and its image went too')
    check(launcher.stop() == 0, 'the launcher did not end with status 0')

    # An image that leaves the configuration goes with everything.
    world.write_config('builder', [], [provider(cloud, name=name) for name in ('cloud-a', 'cloud-b')],
                       **{'images-dir': str(site.images_dir), 'build-log-dir': str(site.logs_dir)})
    wait_for('gone: all records of builds', lambda: not records.builds(site.client), 60)
    wait_for('gone: all files', lambda: site.files() == {'builder_id.txt'}, 60)
    nothing_left(world, cloud)
    check(builder.stop() == 0, 'the builder did not end with status 0')
    check_quiet_locks(site.client)
    calls = {call: ends for call, ends in cloud.calls().items() if call.startswith('image ')}
    passed(f'taken from the configuration: no record, no file, nothing in Glance; calls: {calls}')


SCENARIOS = (builder_beside_python, builder_openstack)
BY_NAME = ()
