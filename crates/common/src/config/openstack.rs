//! The keys of an `openstack` or `fake` provider.

use std::{path::PathBuf, time::Duration};

use indexmap::{IndexMap, IndexSet};

use super::{
    CloudImage, LabelImage, OpenStack, OpenStackDiskimage, OpenStackLabel, OpenStackPool, Pool, PoolLabel,
    advice::suggest,
    connections,
    doubtful::Doubtful,
    fields::Fields,
    names,
    provider_parts::{self, Common, Scope, check_diskimage, no_cloud_image},
    report::Report,
};
use crate::model::{ImageName, LabelName, PoolName};

/// Reads what the driver needs, and the pools as the planner sees them.
pub fn read(report: &Report, fields: &Fields<'_>, common: &Common, scope: &Scope<'_>) -> (OpenStack, Vec<Pool>) {
    // Upstream's schema demands it; at run time the SDK finds one by itself.
    let cloud = if report.strict() { fields.required_text("cloud") } else { fields.filled("cloud") };
    fields.text("nodepool-id"); // upstream's schema knows it, nothing reads it
    let cloud_images = cloud_images(report, fields);
    let diskimages = diskimages(report, fields, scope);
    let name = fields.raw_text("name").unwrap_or_default();
    let is_nameable =
        !names::cannot_have_uploads(report, fields.at_key("name"), &fields.what, name, !diskimages.is_empty());
    let mut openstack = OpenStack {
        cloud,
        region_name: fields.filled("region-name"),
        image_upload_timeout: fields
            .seconds_above_0("image-upload-timeout", "an hour")
            .unwrap_or(Duration::from_secs(3600)),
        rate: fields
            .number("rate", false)
            .and_then(|rate| fields.duration("rate", rate))
            .unwrap_or(Duration::from_secs(1)),
        image_name_format: image_name_format(report, fields),
        clean_floating_ips: fields.bool("clean-floating-ips").unwrap_or(false),
        port_cleanup_interval: Some(fields.seconds("port-cleanup-interval").unwrap_or(Duration::from_secs(600)))
            .filter(|interval| !interval.is_zero()),
        post_upload_hook: fields.filled("post-upload-hook").map(PathBuf::from),
        // When validating, it is enough to tell that the provider's name is wrong.
        diskimages: if is_nameable || report.strict() { diskimages } else { IndexMap::new() },
        cloud_images,
        pools: IndexMap::new(),
    };
    let images = Bootable {
        cloud_images: openstack.cloud_images.keys().cloned().collect(),
        diskimages: openstack.diskimages.keys().map(ToString::to_string).collect(),
        doubtful: [Doubtful::of(fields, "cloud-images"), Doubtful::of(fields, "diskimages")],
    };
    let read = |part: &Report, fields: &Fields<'_>, name: &str| pool(part, fields, name, common, &images, scope);
    let mut pools = Vec::new();
    for (name, (pool, mut own)) in provider_parts::pools(report, fields, read) {
        own.labels.retain(|name, _| pool.labels.contains_key(name)); // of equal names the last counts, usable or not
        openstack.pools.insert(name, own);
        pools.push(pool);
    }
    (openstack, pools)
}

/// What `image-name-format` may have within braces (`nodepool 11.0.0: builder.py _uploadImage`).
const OF_IMAGE_NAMES: [&str; 3] = ["image_name", "upload_id", "timestamp"];

/// `image-name-format`. Upstream's schema takes any text, and each upload fails with one that cannot be filled in.
fn image_name_format(report: &Report, fields: &Fields<'_>) -> String {
    let Some(format) = fields.filled("image-name-format") else { return "{image_name}-{timestamp}".to_owned() };
    let at = fields.at_key("image-name-format");
    let all = "within braces there may be `{image_name}`, `{upload_id}` and `{timestamp}`";
    let refuse = |problem: &str, help: String| {
        let message = format!("{}: `image-name-format` has {problem}, so that each upload fails", fields.what);
        report.lapse(at, message, Some(help));
    };
    match names::within_braces(&format) {
        Err(brace) => refuse(
            &format!("a `{brace}` without its other"),
            format!("a brace that is meant as such is written twice; {all}"),
        ),
        Ok(within) if within.is_empty() => {
            let message = format!("{}: with this `image-name-format` all uploads have the same name", fields.what);
            report.warning(at, message, Some(format!("write something like `{format}-{{image_name}}-{{timestamp}}`")));
        }
        Ok(within) => {
            for name in within.iter().filter(|name| !OF_IMAGE_NAMES.contains(&name.as_str())) {
                let meant = suggest(name, OF_IMAGE_NAMES.into_iter()).or(match name.as_str() {
                    "image" | "name" => Some("image_name"),
                    "date" | "time" => Some("timestamp"),
                    "id" | "upload" => Some("upload_id"),
                    _ => None,
                });
                let help = meant.map_or_else(|| all.to_owned(), |meant| format!("did you mean `{{{meant}}}`?"));
                refuse(&format!("`{{{name}}}`, which is not known there"), help);
            }
        }
    }
    format
}

/// What the labels of a provider may boot from.
struct Bootable {
    cloud_images: IndexSet<String>,
    diskimages: IndexSet<String>,
    /// Names that unusable `cloud-images` and `diskimages` may have.
    doubtful: [Doubtful; 2],
}

fn diskimages(report: &Report, provider: &Fields<'_>, scope: &Scope<'_>) -> IndexMap<ImageName, OpenStackDiskimage> {
    let mut images = IndexMap::new();
    for node in provider.list("diskimages") {
        let Some((fields, name)) = Fields::named(report, node, Some(&provider.what), "diskimage") else { continue };
        check_diskimage(report, fields.at(), &provider.what, &name, scope);
        let top = scope.diskimages.buildable.get(name.as_str());
        let (connection_type, connection_port) = connection(&fields);
        let name = ImageName::from(name);
        let image = OpenStackDiskimage {
            name: name.clone(),
            pause: fields.bool("pause").unwrap_or(false),
            meta: fields.str_map("meta").unwrap_or_default(),
            config_drive: fields.bool("config-drive"),
            connection_type,
            connection_port,
            username: top.map(|image| image.username.clone()).unwrap_or_default(),
            python_path: top.map(|image| image.python_path.clone()).unwrap_or_default(),
            shell_type: top.and_then(|image| image.shell_type.clone()),
        };
        if images.insert(name, image).is_some() {
            let help = Some("leave one of the two out".to_owned());
            report.warning(node.at, format!("{} is listed twice; this one counts", fields.what), help);
        }
        fields.finish();
    }
    images
}

fn cloud_images(report: &Report, provider: &Fields<'_>) -> IndexMap<String, CloudImage> {
    let mut images = IndexMap::new();
    for node in provider.list("cloud-images") {
        let Some((fields, name)) = Fields::named(report, node, Some(&provider.what), "cloud-image") else { continue };
        let (connection_type, connection_port) = connection(&fields);
        let image = CloudImage {
            name: name.clone(),
            config_drive: fields.bool("config-drive"),
            image_id: fields.filled("image-id"),
            image_name: fields.filled("image-name"),
            username: fields.text("username"),
            python_path: fields.filled("python-path").unwrap_or_else(|| "auto".to_owned()),
            shell_type: fields.filled("shell-type"),
            connection_type,
            connection_port,
        };
        if image.image_id.is_some() && image.image_name.is_some() {
            let message = format!("{} has both `image-id` and `image-name`", fields.what);
            report.lapse(fields.at_key("image-name"), message, Some("`image-id` counts; drop the other".to_owned()));
        }
        if images.insert(name, image).is_some() {
            let help = Some("leave one of the two out".to_owned());
            report.warning(node.at, format!("{} is listed twice; this one counts", fields.what), help);
        }
        fields.finish();
    }
    images
}

/// `connection-type` and its port: 22, but 5986 for winrm.
fn connection(fields: &Fields<'_>) -> (String, u16) {
    let kind = connections::read(fields, fields.filled("connection-type"));
    let default = if kind == "winrm" { 5986 } else { 22 };
    let port = provider_parts::connection_port(fields, "connection-port");
    (kind, port.unwrap_or(default))
}

fn pool(
    report: &Report,
    fields: &Fields<'_>,
    name: &str,
    common: &Common,
    images: &Bootable,
    scope: &Scope<'_>,
) -> (Pool, OpenStackPool) {
    let mut pool = provider_parts::pool(fields, name, common);
    for (key, resource) in [("max-cores", "cores"), ("max-ram", "ram")] {
        if let Some(limit) = fields.limit(key) {
            pool.limits.set(resource, limit);
        }
    }
    for (key, resource) in [("max-volumes", "volumes"), ("max-volume-gb", "volume-gb")] {
        // 0 is false to Python: upstream treats it as not given.
        if let Some(limit) = fields.limit(key).filter(|limit| *limit != 0.0) {
            pool.limits.set(resource, limit);
        }
    }
    pool.ignore_provider_quota = fields.bool("ignore-provider-quota").unwrap_or(false);
    pool.availability_zones = fields.texts("availability-zones").unwrap_or_default();
    let mut own = OpenStackPool {
        name: PoolName::from(name),
        networks: fields.texts("networks").unwrap_or_default(),
        security_groups: fields.texts("security-groups").unwrap_or_default(),
        auto_floating_ip: fields.bool("auto-floating-ip").unwrap_or(true),
        labels: IndexMap::new(),
    };
    let host_key_checking = fields.bool("host-key-checking").unwrap_or(true);
    for node in fields.list("labels") {
        let read = |part: &Report, label_fields: &Fields<'_>, name: &LabelName| {
            label(part, label_fields, name.clone(), &own.networks, host_key_checking, images, scope)
        };
        if let Some((name, label)) = provider_parts::label(report, node, fields, &mut pool, scope, read) {
            let diskimage = match &label.image {
                LabelImage::Diskimage(image) => Some(image.clone()),
                LabelImage::CloudImage(_) => None,
            };
            pool.labels.insert(name.clone(), PoolLabel { name: name.clone(), diskimage });
            own.labels.insert(name, label);
        }
    }
    (pool, own)
}

fn label(
    report: &Report,
    fields: &Fields<'_>,
    name: LabelName,
    pool_networks: &[String],
    pool_host_key_checking: bool,
    images: &Bootable,
    scope: &Scope<'_>,
) -> Option<OpenStackLabel> {
    let image = image(report, fields, images, scope);
    let (min_ram, flavor_name) = (fields.amount("min-ram"), fields.filled("flavor-name"));
    if fields.get("flavor-name").is_none() && fields.lacks(&["min-ram", "flavor-name"]) {
        let help = "name a flavor, `flavor-name: NAME`, or the memory that it must have, `min-ram: MIB`; without them, the \
                    smallest flavor of the cloud is taken";
        let help = Some(help.to_owned());
        report.lapse(fields.at(), format!("{} has neither `min-ram` nor `flavor-name`", fields.what), help);
    }
    if fields.raw_text("flavor-name") == Some("") {
        let (message, help) = if min_ram.is_none() {
            ("is empty, so that the smallest flavor of the cloud is taken", "name a flavor, or write `min-ram: MIB`")
        } else {
            ("is empty and counts as not given", "name a flavor, or leave the key out")
        };
        report.warning(
            fields.at_key("flavor-name"),
            format!("{}: `flavor-name` {message}", fields.what),
            Some(help.to_owned()),
        );
    }
    let label = |image| OpenStackLabel {
        name,
        image,
        min_ram: min_ram.unwrap_or(0),
        flavor_name,
        key_name: fields.filled("key-name"),
        console_log: fields.bool("console-log").unwrap_or(false),
        boot_from_volume: fields.bool("boot-from-volume").unwrap_or(false),
        volume_size: fields.amount("volume-size").unwrap_or(50),
        instance_properties: fields.str_map("instance-properties").unwrap_or_default(),
        dynamic_instance_properties: fields.str_map("dynamic-instance-properties").unwrap_or_default(),
        userdata: fields.text("userdata"),
        networks: fields.texts("networks").unwrap_or_else(|| pool_networks.to_vec()),
        host_key_checking: fields.bool("host-key-checking").unwrap_or(pool_host_key_checking),
    };
    // The keys are read whether there is an image or not, so that none of them is reported as unknown.
    let broken = image.is_none();
    let label = label(image.unwrap_or_else(|| LabelImage::CloudImage(String::new())));
    (!broken).then_some(label)
}

/// What the label boots from: exactly one of `diskimage` and `cloud-image`. Where both stand, upstream's launcher
/// takes the diskimage.
fn image(report: &Report, fields: &Fields<'_>, images: &Bootable, scope: &Scope<'_>) -> Option<LabelImage> {
    let (diskimage, cloud_image) = (fields.filled("diskimage"), fields.filled("cloud-image"));
    if diskimage.is_some() && cloud_image.is_some() {
        let message = format!("{} has both `diskimage` and `cloud-image`", fields.what);
        report.lapse(fields.at_key("cloud-image"), message, Some("`diskimage` counts; drop one of them".to_owned()));
    }
    let [doubtful_cloud_images, doubtful_diskimages] = &images.doubtful;
    if let Some(name) = &cloud_image
        && !images.cloud_images.contains(name)
        && !doubtful_cloud_images.has(name)
    {
        no_cloud_image(report, fields, name, &images.cloud_images, &images.diskimages);
    }
    if let Some(name) = &diskimage
        && !images.diskimages.contains(name)
        && !doubtful_diskimages.has(name)
    {
        no_diskimage(report, fields, name, images, scope);
    }
    let image = diskimage.map(|name| LabelImage::Diskimage(name.into())).or(cloud_image.map(LabelImage::CloudImage));
    for key in ["diskimage", "cloud-image"] {
        if image.is_some() && fields.raw_text(key) == Some("") {
            let message = format!("{}: `{key}` is empty and counts as not given", fields.what);
            report.warning(fields.at_key(key), message, Some("leave the key out".to_owned()));
        }
    }
    if image.is_none() {
        let is_told = image_by_another_name(fields, images);
        if !is_told && fields.lacks(&["diskimage", "cloud-image"]) {
            let message = format!("{} has neither `diskimage` nor `cloud-image`", fields.what);
            report.error(fields.at(), message, Some(format!("say what it boots from: {}", images.offered())));
        }
    }
    image
}

/// Tells of a label that has `image`, as those of pods do; whether that is enough.
fn image_by_another_name(fields: &Fields<'_>, images: &Bootable) -> bool {
    let Some(node) = fields.raw("image").filter(|_| !fields.report().keeps_keys()) else { return false };
    let help = match node.as_text() {
        Some(name) if images.diskimages.contains(name) => format!("write `diskimage: {name}`"),
        Some(name) if images.cloud_images.contains(name) => format!("write `cloud-image: {name}`"),
        _ => format!("say what it boots from: {}", images.offered()),
    };
    fields.refuse("image", help);
    fields.report().strict()
}

impl Bootable {
    /// What can be written.
    fn offered(&self) -> String {
        let of = |key: &str, names: &IndexSet<String>| {
            let names: Vec<_> = names.iter().take(3).map(|name| format!("`{key}: {name}`")).collect();
            if names.is_empty() {
                vec![format!("`{key}: NAME`, with one of the `{key}s` of the provider")]
            } else {
                names
            }
        };
        let all: Vec<_> =
            of("diskimage", &self.diskimages).into_iter().chain(of("cloud-image", &self.cloud_images)).collect();
        format!("write {}", all.join(", or "))
    }
}

/// Reports that a label boots from a diskimage that its provider does not list.
fn no_diskimage(report: &Report, label: &Fields<'_>, name: &str, images: &Bootable, scope: &Scope<'_>) {
    let at = label.at_key("diskimage");
    if images.cloud_images.contains(name) {
        let message = format!("{}: diskimage `{name}` is a cloud-image of the provider", label.what);
        report.error(at, message, Some(format!("write `cloud-image: {name}`")));
        return;
    }
    if !scope.diskimages.buildable.contains_key(name) {
        check_diskimage(report, at, &label.what, name, scope);
        return;
    }
    let is_defined = |image: &str| scope.diskimages.buildable.contains_key(image);
    let misspelt = images.diskimages.iter().map(String::as_str).filter(|image| !is_defined(image));
    if report.strict() && suggest(name, misspelt).is_some() {
        return; // that was told where it stands
    }
    let message = format!(
        "{}: its provider does not have diskimage `{name}` in its own `diskimages`, so it is never uploaded there",
        label.what
    );
    report.error(at, message, Some(format!("add `- name: {name}` to the `diskimages` of the provider")));
}
