//! What can be said of a provider whose driver is not built: what every provider has, and what refers to the top level.
//!
//! The driver's own keys are not known, so nothing is said of keys.

use indexmap::IndexSet;

use super::{
    doubtful::Doubtful,
    fields::Fields,
    provider_parts::{self, Common, Scope, check_diskimage, check_label, no_cloud_image},
    report::Report,
};
use crate::model::LabelName;

/// Checks it.
pub fn check(report: &Report, provider: &Fields<'_>, common: &Common, scope: &Scope<'_>) {
    for key in ["boot-timeout", "launch-timeout"] {
        provider.seconds(key);
    }
    provider.int("launch-retries");
    let mut diskimages = IndexSet::new();
    for node in provider.list("diskimages") {
        if let Some((fields, name)) = Fields::named(report, node, Some(&provider.what), "diskimage") {
            check_diskimage(report, fields.at(), &provider.what, &name, scope);
            diskimages.insert(name);
        }
    }
    let mut cloud_images = IndexSet::new();
    let doubtful = Doubtful::of(provider, "cloud-images");
    for node in provider.list("cloud-images") {
        if let Some((_, name)) = Fields::named(report, node, Some(&provider.what), "cloud-image") {
            cloud_images.insert(name);
        }
    }
    for node in provider.list("pools") {
        let Some((pool, name)) = Fields::named(report, node, Some(&provider.what), "pool") else { continue };
        provider_parts::pool(&pool, &name, common);
        let mut labels = IndexSet::new();
        for node in pool.list("labels") {
            let Some((label, name)) = Fields::named(report, node, Some(&pool.what), "label") else { continue };
            if !labels.insert(name.clone()) {
                let help = Some("leave one of the two out".to_owned());
                report.warning(node.at, format!("{} is listed twice; this one counts", label.what), help);
            }
            check_label(report, label.at(), &label.what, &LabelName::from(name), scope);
            if let Some(image) = label.filled("diskimage") {
                check_diskimage(report, label.at_key("diskimage"), &label.what, &image, scope);
            }
            let is_missing = |image: &String| !cloud_images.contains(image) && !doubtful.has(image);
            if let Some(image) = label.filled("cloud-image").filter(is_missing) {
                no_cloud_image(report, &label, &image, &cloud_images, &diskimages);
            }
        }
    }
}
