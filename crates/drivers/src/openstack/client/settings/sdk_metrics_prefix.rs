//! What the names of a cloud's calls begin with in statsd.

use serde_json::{Map, Value};

use super::{config_files::object, values::text};
use crate::Context;

/// The SDK's own.
const PREFIX: &str = "openstack.api";

/// What the names begin with: `metrics.statsd.prefix` of the cloud, else `STATSD_PREFIX`, else what stands beside the
/// clouds (`openstacksdk: config/loader.py`).
pub(super) fn prefix(cloud: &Map<String, Value>, everywhere: &Map<String, Value>, context: &Context) -> String {
    let of = |metrics: &Map<String, Value>| {
        object(metrics, "statsd").get("prefix").and_then(text).filter(|prefix| !prefix.is_empty())
    };
    of(&object(cloud, "metrics"))
        .or_else(|| context.variable("STATSD_PREFIX").map(str::to_owned))
        .or_else(|| of(everywhere))
        .unwrap_or_else(|| PREFIX.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_prefix_is_the_clouds_then_the_environments_then_everybodys() {
        let of = |prefix: &str| json!({"statsd": {"prefix": prefix}}).as_object().cloned().unwrap();
        let cloud = json!({"metrics": of("clouds.one")}).as_object().cloned().unwrap();
        let plain = Context::default();
        let told = Context::default().with_variable("STATSD_PREFIX", "of.env");
        assert_eq!(prefix(&cloud, &of("all"), &told), "clouds.one");
        assert_eq!(prefix(&Map::new(), &of("all"), &told), "of.env");
        assert_eq!(prefix(&Map::new(), &of("all"), &plain), "all");
        assert_eq!(prefix(&Map::new(), &Map::new(), &plain), "openstack.api");
    }
}
