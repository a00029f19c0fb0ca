"""The manifests as they are rendered: what can be said of them without any cluster."""
import ipaddress
import re
import tempfile

import yaml

from checks import (DEPLOY, KUBERNETES, OVERLAYS, ROOT, Failure, Skip, VENV, check, containers, name, of_kind, programs, render,
                    run, workloads)


def selects(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


def images_have_versions(overlays):
    """No image is without a version, or of the version `latest`."""
    seen = set()
    for objects in overlays.values():
        for workload in workloads(objects):
            for container in containers(workload['spec']['template']['spec']):
                image = container['image']
                seen.add(image)
                _, at, digest = image.partition('@')
                tag = image.rpartition('/')[2].partition(':')[2]
                check(digest or tag not in ('', 'latest', 'to-be-replaced'), f'{name(workload)} runs {image}')
                check('registry.invalid' not in image, f'{name(workload)} runs the placeholder {image}')
    for text in compose_images():
        tag = text.rpartition(':')[2].rstrip('}')
        check(re.fullmatch(r'[\d.]+', tag), f'compose.yaml runs {text}')
        seen.add(text)
    return f'{len(seen)} images'


def compose_images():
    services = yaml.safe_load((DEPLOY / 'compose/compose.yaml').read_text())['services']
    return {service['image'] for service in services.values()}


def trial_runs_this_version(overlays):
    """The trials run the images that `make images` makes of this version."""
    [version] = re.findall(r'^version = "(.*)"', (ROOT / 'Cargo.toml').read_text(), re.MULTILINE)
    used = {c['image'] for w in workloads(overlays['trial']) for c in containers(w['spec']['template']['spec'])}
    used |= {image.partition(':-')[2].rstrip('}') for image in compose_images() if ':-' in image}
    ours = sorted(image for image in used if 'nodepool-' in image)
    check(ours == [f'localhost/nodepool-builder:{version}', f'localhost/nodepool-launcher:{version}'],
          f'the version is {version}, the images are {ours}')


def containers_are_confined(overlays):
    """Each container has a read-only root, limits of memory, and no token of the cluster."""
    count = 0
    for objects in overlays.values():
        for workload in workloads(objects):
            spec = workload['spec']['template']['spec']
            check(spec.get('automountServiceAccountToken') is False, f'{name(workload)} gets a token')
            for container in containers(spec):
                count += 1
                where = f'{name(workload)}, container {container["name"]}'
                check(container['securityContext'].get('readOnlyRootFilesystem') is True, f'{where}: its root can be written')
                resources = container.get('resources', {})
                check('memory' in resources.get('limits', {}), f'{where}: no limit of memory')
                check({'cpu', 'memory'} <= resources.get('requests', {}).keys(), f'{where}: no requests')
                for mount in container.get('volumeMounts', []):
                    check('subPath' not in mount, f'{where}: {mount["mountPath"]} is mounted by subPath, so it never changes')
    return f'{count} containers'


def names_lead_somewhere(overlays):
    """Whatever a pod mounts or reads is in the manifests, or the README says how it is made."""
    readme = (DEPLOY / 'README.md').read_text()
    by_hand = set()
    for objects in overlays.values():
        there = {(o['kind'], o['metadata']['name']) for o in objects}
        for workload in workloads(objects):
            spec = workload['spec']['template']['spec']
            wanted = [('ConfigMap', v['configMap']['name']) for v in spec['volumes'] if 'configMap' in v]
            wanted += [('Secret', v['secret']['secretName']) for v in spec['volumes'] if 'secret' in v]
            wanted += [('ConfigMap', e['configMapRef']['name']) for c in containers(spec) for e in c.get('envFrom', [])]
            wanted += [('Service', workload['spec']['serviceName'])] if workload['kind'] == 'StatefulSet' else []
            wanted += [('ServiceAccount', spec['serviceAccountName'])] if 'serviceAccountName' in spec else []
            for kind, wanted_name in wanted:
                if (kind, wanted_name) not in there:
                    check(f'`{wanted_name}`' in readme, f'{name(workload)} wants {kind} {wanted_name}, which is nowhere')
                    by_hand.add(wanted_name)
            volumes = {v['name'] for v in spec['volumes']}
            volumes |= {c['metadata']['name'] for c in workload['spec'].get('volumeClaimTemplates', [])}
            for container in containers(spec):
                for mount in container.get('volumeMounts', []):
                    check(mount['name'] in volumes, f'{name(workload)} mounts the volume {mount["name"]}, which it has not')
            used = {m['name'] for c in containers(spec) for m in c.get('volumeMounts', [])}
            check(used == volumes, f'{name(workload)} has volumes that it does not mount: {sorted(volumes - used)}')
    return f'by hand: {", ".join(sorted(by_hand))}'


def selectors_select(overlays):
    """Each Service, disruption budget, network policy and monitor selects the pods of its own name, and ports are there."""
    count = 0
    for objects in overlays.values():
        pods = {w['metadata']['name']: w['spec']['template'] for w in workloads(objects)}
        services = {s['metadata']['name']: s for s in of_kind(objects, 'Service')}
        for o in of_kind(objects, 'Service', 'PodDisruptionBudget', 'NetworkPolicy', 'ServiceMonitor', *('Deployment', 'StatefulSet')):
            spec = o['spec']
            selector = (spec.get('podSelector') or spec['selector'])
            selector = selector.get('matchLabels', selector)
            targets = services if o['kind'] == 'ServiceMonitor' else pods
            found = [n for n, target in targets.items() if selects(selector, target['metadata']['labels'])]
            wanted = o['metadata']['labels']['app.kubernetes.io/name']
            check(found == [wanted], f'{name(o)} selects {found}, and not {wanted}')
            ports = {p['name'] for c in pods[wanted]['spec']['containers'] for p in c.get('ports', [])}
            if o['kind'] == 'Service':
                named = {p['targetPort'] for p in spec.get('ports', [])}
            elif o['kind'] == 'NetworkPolicy':
                named = {p['port'] for rule in spec.get('ingress', []) for p in rule['ports']}
            elif o['kind'] == 'ServiceMonitor':
                named, ports = {e['port'] for e in spec['endpoints']}, {p['name'] for p in services[wanted]['spec']['ports']}
            else:
                named = {probe[how]['port'] for c in pods[wanted]['spec']['containers'] for key, probe in c.items()
                         if key.endswith('Probe') for how in ('httpGet', 'tcpSocket') if how in probe}
            check(named <= ports, f'{name(o)} names the ports {sorted(named - ports)}, its target has {sorted(ports)}')
            count += 1
    return f'{count} selectors'


def lets_out(policy, address, port, protocol='TCP', in_cluster=False):
    """Whether a network policy lets its pods connect there; `in_cluster`: the address is that of a pod."""
    def to(peer):
        if 'ipBlock' not in peer:
            return in_cluster
        block = peer['ipBlock']
        networks = [ipaddress.ip_network(n) for n in (block['cidr'], *block.get('except', []))]
        # What is not of the network's own version is not in it.
        inside = [ipaddress.ip_address(address) in network for network in networks]
        return inside[0] and not any(inside[1:])

    def by(allowed):
        return allowed.get('protocol', 'TCP') == protocol and allowed['port'] <= port <= allowed.get('endPort', allowed['port'])
    return any(any(map(to, rule['to'])) and any(map(by, rule['ports'])) for rule in policy['spec']['egress'])


# Address, port, whether the trial's policies and those of the overlay `site` let it through.
WAYS_OUT = [
    (('10.96.0.10', 53, 'UDP', True), True, True),
    (('10.128.0.3', 5353, 'UDP', True), True, True),
    (('169.254.20.10', 53, 'UDP'), True, True),
    (('10.1.2.3', 2281, 'TCP', True), True, True),
    (('10.1.2.3', 8125, 'UDP', True), True, True),
    (('198.51.100.7', 443), True, True),
    (('198.51.100.7', 8774), True, True),
    (('203.0.113.9', 22), True, True),
    (('2001:db8::7', 22), True, False),
    (('192.0.2.1', 443), True, False),
    (('198.51.100.7', 25), True, False),
    # A cloud's metadata service.
    (('169.254.169.254', 80), False, False),
    (('fd00:ec2::254', 80), False, False),
    (('192.0.2.1', 53, 'UDP'), False, False),
]


def ways_out(overlays):
    """The network policies let launcher and builder out to where they must, and nowhere else that they can name."""
    for overlay, column in ('trial', 1), ('site', 2):
        for policy in of_kind(overlays[overlay], 'NetworkPolicy'):
            if policy['metadata']['name'] not in ('nodepool-launcher', 'nodepool-builder'):
                continue
            for row in WAYS_OUT:
                check(lets_out(policy, *row[0]) == row[column], f'{overlay}, {name(policy)}: {row[0]}')
    return f'{len(WAYS_OUT)} ways'


def configurations(overlays):
    """Where each example configuration comes from, and its text."""
    for overlay, objects in overlays.items():
        for o in of_kind(objects, 'ConfigMap'):
            if 'nodepool.yaml' in o.get('data', {}):
                yield f'{overlay}: {o["metadata"]["name"]}', o['data']['nodepool.yaml']
    for path in 'compose/config/nodepool.yaml', 'systemd/nodepool.yaml':
        yield path, (DEPLOY / path).read_text()


def configurations_are_valid(overlays):
    """Our config-validate takes each example configuration."""
    ours = programs()['nodepool']
    return validate(overlays, ours)


def configurations_are_valid_for_python(overlays):
    """Python Nodepool's config-validate takes each example configuration."""
    theirs = VENV / 'bin/nodepool'
    if not theirs.exists():
        raise Skip(f'{theirs} is missing: tests/setup test')
    return validate(overlays, theirs)


def validate(overlays, nodepool):
    count = 0
    for where, text in configurations(overlays):
        with tempfile.NamedTemporaryFile('w', suffix='.yaml') as file:
            file.write(text)
            file.flush()
            try:
                run(nodepool, '-c', file.name, 'config-validate')
            except Failure as failure:
                raise Failure(f'{where}: {failure}') from None
            count += 1
    check(count == 6, f'there are {count} example configurations')
    return f'{count} files'


def openshift_component(objects_of_trial):
    """The component `openshift` leaves users and groups to the cluster."""
    with tempfile.TemporaryDirectory(dir=KUBERNETES) as directory:
        objects = render(with_component(directory, 'openshift'))
    for workload in workloads(objects):
        security = workload['spec']['template']['spec']['securityContext']
        check(not {'runAsUser', 'runAsGroup', 'fsGroup'} & security.keys(), f'{name(workload)}: {security}')
        check(security['runAsNonRoot'] is True, f'{name(workload)}: {security}')
    check(len(workloads(objects)) == len(workloads(objects_of_trial)), 'it lost a workload')


def with_component(directory, component):
    """A kustomization in a directory below deploy/kubernetes: the trial with one more component."""
    with open(f'{directory}/kustomization.yaml', 'w') as file:
        yaml.safe_dump({'apiVersion': 'kustomize.config.k8s.io/v1beta1', 'kind': 'Kustomization',
                        'resources': ['../overlays/trial'], 'components': [f'../components/{component}']}, file)
    return directory


def rendered():
    return {directory.name: render(directory) for directory in OVERLAYS}


def checks(counts, overlays):
    for check_one in (images_have_versions, trial_runs_this_version, containers_are_confined, names_lead_somewhere,
                      selectors_select, ways_out, configurations_are_valid, configurations_are_valid_for_python):
        counts.run(check_one, overlays)
    counts.run(openshift_component, overlays['trial'])
