//! Where a cloud's calls are counted in statsd, and what their names begin with.

use serde_json::{Map, Value};

use super::{config_files::object, values::text};
use crate::Context;

/// The SDK's own prefix.
const PREFIX: &str = "openstack.api";
/// The host and the port of who names only the other (`statsd 4.0: StatsClient`).
const SERVER: (&str, u16) = ("localhost", 8125);

/// See the module's comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SdkStatsd {
    /// What the names begin with.
    pub prefix: String,
    /// Host and port, where `metrics.statsd` names another server than the environment, or there is none in that. `None`: it
    /// is the process's own server, if it has one.
    pub server: Option<(String, u16)>,
}

impl SdkStatsd {
    /// Each of `host`, `port` and `prefix` is that of `metrics.statsd` of the cloud, else `STATSD_…` of the environment, else
    /// what stands beside the clouds (`openstacksdk: config/loader.py`).
    pub(super) fn read(cloud: &Map<String, Value>, everywhere: &Map<String, Value>, context: &Context) -> Self {
        let (cloud, everywhere) = (object(&object(cloud, "metrics"), "statsd"), object(everywhere, "statsd"));
        let given =
            |from: &Map<String, Value>, key: &str| from.get(key).and_then(text).filter(|value| !value.is_empty());
        let told = |name: &str| context.variable(name).filter(|value| !value.is_empty()).map(str::to_owned);
        let of = |key: &str, name: &str| given(&cloud, key).or_else(|| told(name)).or_else(|| given(&everywhere, key));
        let server = |host: Option<String>, port: Option<String>| {
            (host.is_some() || port.is_some()).then(|| {
                let port = port.and_then(|port| port.trim().parse().ok()).unwrap_or(SERVER.1);
                (host.unwrap_or_else(|| SERVER.0.to_owned()), port)
            })
        };
        let own = server(told("STATSD_HOST"), told("STATSD_PORT"));
        let named = server(of("host", "STATSD_HOST"), of("port", "STATSD_PORT"));
        Self {
            prefix: of("prefix", "STATSD_PREFIX").unwrap_or_else(|| PREFIX.to_owned()),
            server: named.filter(|named| own.as_ref() != Some(named)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn statsd(settings: &Value) -> Map<String, Value> {
        json!({"statsd": settings}).as_object().cloned().unwrap()
    }

    fn of_cloud(settings: &Value) -> Map<String, Value> {
        json!({"metrics": statsd(settings)}).as_object().cloned().unwrap()
    }

    #[test]
    fn the_prefix_is_the_clouds_then_the_environments_then_everybodys() {
        let all = statsd(&json!({"prefix": "all"}));
        let cloud = of_cloud(&json!({"prefix": "clouds.one"}));
        let plain = Context::default();
        let told = Context::default().with_variable("STATSD_PREFIX", "of.env");
        assert_eq!(SdkStatsd::read(&cloud, &all, &told).prefix, "clouds.one");
        assert_eq!(SdkStatsd::read(&Map::new(), &all, &told).prefix, "of.env");
        assert_eq!(SdkStatsd::read(&Map::new(), &all, &plain).prefix, "all");
        assert_eq!(SdkStatsd::read(&Map::new(), &Map::new(), &plain).prefix, "openstack.api");
    }

    #[test]
    fn the_server_is_the_clouds_then_the_environments_then_everybodys() {
        let (plain, nothing) = (Context::default(), Map::new());
        let told = Context::default().with_variable("STATSD_HOST", "env").with_variable("STATSD_PORT", "9125");
        let half = Context::default().with_variable("STATSD_HOST", "env");
        let all = statsd(&json!({"host": "all", "port": 8126}));
        let cloud = of_cloud(&json!({"host": "cloud"}));
        let server = |host: &str, port: u16| Some((host.to_owned(), port));
        for (cloud, everywhere, context, expected) in [
            (&cloud, &all, &told, server("cloud", 9125)),
            (&cloud, &nothing, &plain, server("cloud", 8125)),
            (&nothing, &all, &plain, server("all", 8126)),
            (&nothing, &all, &half, server("env", 8126)),
            (&of_cloud(&json!({"port": "7"})), &nothing, &plain, server("localhost", 7)),
            // The process's own.
            (&nothing, &all, &told, None),
            (&of_cloud(&json!({"host": "env", "port": 9125})), &nothing, &told, None),
            (&nothing, &nothing, &plain, None),
        ] {
            assert_eq!(SdkStatsd::read(cloud, everywhere, context).server, expected, "{cloud:?} {everywhere:?}");
        }
    }
}
