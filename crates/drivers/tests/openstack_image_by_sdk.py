"""Uploads an image as upstream does (nodepool 11.0.0: driver/openstack/adapter.py uploadImage), prints Glance's document
of it as JSON, and deletes it.

Arguments: cloud, name, file, a JSON object of what upstream hands over besides."""
import json
import sys

import openstack

cloud, name, filename, more = sys.argv[1:]
connection = openstack.connect(cloud=cloud)
image = connection.create_image(name=name, filename=filename, is_public=False, wait=True, timeout=300, **json.loads(more))
try:
    print(json.dumps(connection.image.get(f'/images/{image.id}').json()))
finally:
    connection.delete_image(image.id)
