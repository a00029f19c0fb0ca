//! What to say about a key that the part of the file where it stands does not have.
//!
//! In this order, the first that fits: a key that Nodepool had once, with what took its place; one that is known by another name
//! ([`aliases`], [`synonyms`]); one that belongs to another
//! part of the file; one of another driver; one that looks like a key of this part; or the keys that there are. A key that
//! is right elsewhere must not be answered with one that only looks like it.
//!
//! Which part has which keys is not written down twice: the readers are run once over one of everything
//! ([`ONE_OF_EVERYTHING`]), with a report that takes down what they ask for.

use std::sync::LazyLock;

use super::{
    Place, aliases, names,
    providers::BUILT,
    report::{KnownKeys, Report},
    shapes,
    source::{self, Environment},
    suggest::plain,
    synonyms,
    yaml::{Mark, Node, Value, meant_characters, without_space},
};
pub use super::{level::Level, suggest::suggest};

/// The keys that Nodepool had before (up to 0.5, up to 3.0, and later), and what took their place.
///
/// Found in the schemas of `nodepool/cmd/config_validator.py` and `driver/*/config.py` of all releases.
const RETIRED: &[(Level, &[&str], &str)] = &[
    (Level::Top, &["targets"], "leave it out: Zuul's executors run the jobs, and no Jenkins is told of nodes"),
    (
        Level::Top,
        &["gearman-servers", "zmq-publishers"],
        "leave it out: Zuul asks for nodes through ZooKeeper, see `zookeeper-servers`",
    ),
    (Level::Top, &["dburi"], "leave it out: everything is kept in ZooKeeper, see `zookeeper-servers`"),
    (
        Level::Top,
        &["cron"],
        "leave it out: cleaning up needs no schedule, and how often an image is built is its `rebuild-age`",
    ),
    (
        Level::Top,
        &["script-dir"],
        "leave it out: images are made by `elements`, and nodes are prepared by Zuul's pre-run playbooks",
    ),
    (
        Level::Top,
        &["zookeeper-auth"],
        "leave it out: clients of ZooKeeper show a certificate instead, `zookeeper-tls: {cert: FILE, key: FILE, ca: FILE}`",
    ),
    (
        Level::Label,
        &["image"],
        "each pool that has this label says in its own `labels` what it boots: `diskimage` or `cloud-image`",
    ),
    (Level::Label, &["providers"], "a label is served by the pools of providers that list it in their `labels`"),
    (Level::Label, &["ready-script"], "leave it out: nodes are prepared by Zuul's pre-run playbooks"),
    (Level::Label, &["subnodes"], "leave it out: a job asks for several nodes with a nodeset, in Zuul"),
    (
        Level::Provider,
        &["images"],
        "images that are built and uploaded stand in the provider's `diskimages`, those of the cloud in `cloud-images`, and \
         their `min-ram` in the `labels` of pools",
    ),
    (Level::Provider, &["image-type"], "it is `image_format` of the cloud in clouds.yaml"),
    (Level::Provider, &["api-timeout"], "it is `api_timeout` of the cloud in clouds.yaml"),
    (Level::Provider, &["keypair"], "it is `key-name` in the `labels` of pools"),
    (
        Level::Provider,
        &["ipv6-preferred"],
        "leave it out: the address is chosen as openstacksdk does, see `force_ipv4` in clouds.yaml",
    ),
    (
        Level::Provider,
        &["pool"],
        "leave it out: whether servers get a floating IP is `auto-floating-ip` of a pool, and from which network is \
         `nat_source` of a network in clouds.yaml",
    ),
    (Level::Provider, &["template-hostname"], "the names of images follow `image-name-format`"),
    (Level::Provider, &["hostname-format"], "leave it out: it had no effect for long"),
    (
        Level::Provider,
        &[
            "username",
            "password",
            "auth-url",
            "project-id",
            "project-name",
            "service-type",
            "service-name",
            "compute-service-type",
            "compute-service-name",
        ],
        "how to log in to a cloud stands in clouds.yaml; `cloud` names it",
    ),
    (Level::Pool, &["hostname-format"], "leave it out: it had no effect for long"),
    (Level::PoolLabel, &["name-filter"], "it is `flavor-name`"),
    (Level::ProviderDiskimage, &["name-filter"], "it is `flavor-name` in the `labels` of pools"),
    (
        Level::ProviderDiskimage,
        &["private-key", "user-home"],
        "leave it out: Nodepool does not log in to nodes; Zuul's executors have the key",
    ),
    (
        Level::CloudImage,
        &["private-key", "user-home", "setup"],
        "leave it out: Nodepool does not log in to nodes; Zuul's executors have the key",
    ),
    (Level::StaticNode, &["ssh-port"], "it is `connection-port`"),
];

/// Keys that only files from before Nodepool 3.0 have at the top level.
const BEFORE_3: [&str; 5] = ["targets", "gearman-servers", "zmq-publishers", "dburi", "cron"];

/// Something of each part of the file, for a provider of a driver.
const ONE_OF_EVERYTHING: &str = "
webapp: {}
zookeeper-servers: [{host: h}]
zookeeper-tls: {cert: c}
labels: [{name: l}]
diskimages: [{name: d}]
image-builders: [{name: b}]
providers:
- name: p
  driver: DRIVER
  cloud: c
  context: c
  diskimages: [{name: d}]
  cloud-images: [{name: i}]
  pools:
  - name: p
    labels: [{name: l, backing-label: l, type: pod}]
    nodes: [{name: n, labels: [l]}]
";

static KNOWN: LazyLock<Vec<KnownKeys>> = LazyLock::new(|| {
    let of_driver = |driver: &&str| {
        let report = Report::of_keys();
        let text = ONE_OF_EVERYTHING.replace("DRIVER", driver);
        let root = source::parse(text.as_bytes(), &Environment::default(), &report).and_then(|document| document.root);
        if let Some(root) = root {
            super::build(&report, &root, None);
        }
        report.known_keys()
    };
    BUILT.iter().flat_map(of_driver).collect()
});

/// Every key that a part of the file may have, with the driver where it is in a provider; `image-builders` are not looked
/// into.
#[cfg(test)]
pub fn all_keys() -> impl Iterator<Item = (Option<&'static str>, Level, &'static str)> {
    let known = KNOWN.iter().filter(|known| !matches!(known.level, Level::Other | Level::ImageBuilder));
    known.flat_map(|known| known.keys.iter().map(|key| (known.driver, known.level, *key)))
}

/// What to say of `x-defaults: &defaults`.
const NO_KEYS_OF_ONES_OWN: &str = "keys of one's own are not allowed, not even for anchors: put the anchor where what it stands \
                                   for is used first";

/// A key that the part of the file where it stands does not have.
pub struct Unknown<'a> {
    /// What that part is, for messages.
    pub what: &'a str,
    /// Which part it is.
    pub level: Level,
    /// Of the provider that it belongs to, if it does.
    pub driver: Option<&'static str>,
    /// The key.
    pub name: &'a str,
    /// Its value.
    pub value: &'a Node,
    /// The keys that the part may have.
    pub known: &'a [&'static str],
    /// Where the part has a key already.
    pub place_of: &'a dyn Fn(&str) -> Option<Place>,
}

impl Unknown<'_> {
    /// The message and the advice.
    pub fn told(&self) -> (String, String) {
        let Self { what, level, driver, name, known, .. } = *self;
        let shown = names::shown(name);
        if let Some(meant) = without_space(name).filter(|_| self.value.is_null()) {
            let message = format!("{what}: a space is missing behind the colon of `{shown}`");
            return (message, format!("write `{meant}`"));
        }
        if let Some((plain, character)) = meant_characters(name) {
            let message = format!("{what} has no key `{shown}`, which has the character {character} in it");
            return (message, format!("write `{plain}`, typed anew"));
        }
        let meant = meant(level, driver, name, known);
        // A key of old that was a text is not what has a list below.
        let is_other = matches!(self.value.value, Value::List(_) | Value::Map(_)) && meant.is_some();
        if let Some(instead) = retired(level, driver, name).filter(|_| !is_other) {
            return (format!("{what}: `{shown}` is a key of earlier versions of Nodepool"), instead.to_owned());
        }
        let help = synonyms::remark(level, driver, name, self.value)
            .or_else(|| meant.map(|meant| self.instead(meant)))
            .or_else(|| aliases::remark(level, name).map(str::to_owned))
            .or_else(|| {
                let meant =
                    aliases::of_key(level, name).iter().find_map(|key| Some((key, elsewhere(level, driver, key)?)));
                meant
                    .filter(|(key, _)| *key != &name)
                    .map(|(key, place)| format!("did you mean `{key}`? {}", capital(&place)))
            })
            .or_else(|| elsewhere(level, driver, name))
            .or_else(|| name.starts_with(['_', '.']).then(|| NO_KEYS_OF_ONES_OWN.to_owned()))
            .or_else(|| name.starts_with("x-").then(|| NO_KEYS_OF_ONES_OWN.to_owned()))
            .or_else(|| {
                let found = |key| Some(format!("did you mean `{key}`? It belongs {}", places(level, driver, key)?));
                synonyms::keys(level, name).find_map(found)
            })
            .unwrap_or_else(|| format!("its keys are: {}", known.join(", ")));
        (format!("{what} has no key `{shown}`"), help)
    }

    /// What to do where another key was meant.
    fn instead(&self, meant: &str) -> String {
        let Some(place) = (self.place_of)(meant) else {
            return format!("did you mean `{}`?", shapes::with_its_list(meant, self.value));
        };
        let there = format!("`{meant}` is there already, at {place}: ");
        there
            + match &self.value.value {
                Value::List(items) if items.is_empty() => "leave this one out",
                Value::Map(entries) if entries.is_empty() => "leave this one out",
                Value::List(_) | Value::Map(_) => "put what stands below this key there, and leave this one out",
                Value::Scalar(..) => "leave one of the two out",
            }
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// The key of that part of the file that was probably meant by one that it does not have. `known`: the keys that it has.
pub fn meant<'k>(level: Level, driver: Option<&'static str>, name: &str, known: &[&'k str]) -> Option<&'k str> {
    let is_plural_of_name = |key: &&&str| plain(key).strip_suffix('s') == Some(plain(name).as_str());
    // `{name:a}` is one key.
    let head = without_space(name).and_then(|_| name.split_once(':'));
    let glued = head.and_then(|(head, _)| known.iter().find(|key| **key == head));
    let by_other_name = || aliases::of_key(level, name).iter().find_map(|key| known.iter().find(|known| known == &key));
    let by_synonym = || synonyms::keys(level, name).find_map(|key| known.iter().find(|known| **known == key));
    let by_other_name = || by_other_name().or_else(by_synonym);
    let sure = glued.or_else(|| known.iter().find(is_plural_of_name)).or_else(by_other_name).copied();
    sure.or_else(|| {
        let is_right_elsewhere = retired(level, driver, name).is_some()
            || aliases::remark(level, name).is_some()
            || !aliases::of_key(level, name).is_empty()
            || elsewhere(level, driver, name).is_some();
        suggest(name, known.iter().copied()).filter(|_| !is_right_elsewhere)
    })
}

/// The keys of a part of the file; none of a part that is no [`Level`] of its own.
pub fn keys_of(level: Level, driver: Option<&'static str>) -> Vec<&'static str> {
    let is_part = |known: &&KnownKeys| {
        let is_of_driver = driver.is_none() || known.driver.is_none() || known.driver == driver;
        level != Level::Other && known.level == level && is_of_driver
    };
    KNOWN.iter().filter(is_part).flat_map(|known| known.keys.iter().copied()).collect()
}

/// What the value of a key is that must be there, where that is not plain.
pub fn missing(key: &str) -> Option<&'static str> {
    Some(match key {
        "cloud" => "it names a cloud in clouds.yaml",
        "context" => "it names a context of the kubeconfig",
        "backing-label" => "it names the label, served by another provider, on whose nodes those of this one stand",
        "tenant-name" => "it names the tenant in Zuul",
        "name" => "write one: `name: …`",
        "host" => "write the server's name or address: `host: …`",
        "labels" => "they name the top-level labels that the host has",
        "pools" => "labels stand in pools: `- name: main`, with `labels` below",
        _ => return None,
    })
}

#[cfg(test)]
pub fn is_key_of_any_part(key: &str) -> bool {
    KNOWN.iter().any(|known| known.keys.contains(&key))
}

/// What took the place of a key of earlier versions.
fn retired(level: Level, driver: Option<&'static str>, name: &str) -> Option<&'static str> {
    // Providers had only OpenStack's keys then.
    let is_old = level == Level::StaticNode || matches!(driver, None | Some("openstack" | "fake"));
    let found = RETIRED.iter().find(|(on, keys, _)| is_old && *on == level && keys.contains(&name));
    found.map(|(_, _, instead)| *instead)
}

/// Where a key belongs that is right in another part of the file, or with another driver.
fn elsewhere(level: Level, driver: Option<&'static str>, name: &str) -> Option<String> {
    if level == Level::Other {
        return None; // it may be a part of the secure file, or of something within another part
    }
    if let Some(places) = places(level, driver, name) {
        return Some(format!("it belongs {places}"));
    }
    let has = |known: &&KnownKeys| known.level == level && known.keys.contains(&name);
    let mut drivers: Vec<&str> = Vec::new();
    for known in KNOWN.iter().filter(has) {
        drivers.extend(known.driver.filter(|driver| !drivers.contains(driver) && *driver != "fake"));
    }
    let driver = driver.filter(|_| !drivers.is_empty())?;
    Some(format!("leave it out: driver `{driver}` has none; it is a key of: {}", drivers.join(", ")))
}

/// The other parts of the file that have a key.
fn places(level: Level, driver: Option<&'static str>, name: &str) -> Option<String> {
    if level == Level::Other {
        return None;
    }
    // Where a key like `port` is one of a few that mean nothing outside, it says nothing about other parts.
    let is_apart =
        |level| matches!(level, Level::WebApp | Level::ZooKeeperServer | Level::ZooKeeperTls | Level::ImageBuilder);
    let has = |known: &&KnownKeys| known.level != Level::Other && known.keys.contains(&name);
    let mut places: Vec<&str> = Vec::new();
    for known in KNOWN.iter().filter(has) {
        // Within a provider what its driver knows counts; what belongs to no provider is everywhere the same.
        let fits = driver.is_none() || known.driver.is_none() || known.driver == driver;
        let can_be_meant = known.level != level && (level == Level::Top || !is_apart(known.level));
        if fits && can_be_meant && !places.contains(&known.level.place()) {
            places.push(known.level.place());
        }
    }
    (!places.is_empty()).then(|| places.join(" or "))
}

/// Where a file from before Nodepool 3.0 shows that it is one: a key of that time at the top level, beside labels or
/// providers in their form of that time.
pub fn before_version_3(root: &Node) -> Option<(Mark, &'static str)> {
    let has = |list: &str, keys: &[&str]| {
        let items = root.get(list).and_then(|node| node.items()).unwrap_or_default();
        items.iter().any(|item| keys.iter().any(|key| item.get(key).is_some()))
    };
    if !has("labels", &["image", "providers"]) && !has("providers", &["images"]) {
        return None;
    }
    let entries = root.entries()?.iter();
    entries
        .filter_map(|(key, _)| Some((key.at, BEFORE_3.into_iter().find(|old| key.as_text() == Some(old))?)))
        .min_by_key(|(at, _)| (at.line, at.column))
}

#[cfg(test)]
mod tests {
    use super::{KNOWN, Level, RETIRED};

    #[test]
    fn every_part_of_the_file_is_known() {
        let has = |driver, level, key| {
            KNOWN.iter().any(|known| known.driver == driver && known.level == level && known.keys.contains(&key))
        };
        for (level, key) in [
            (Level::Top, "max-hold-age"),
            (Level::WebApp, "listen_address"),
            (Level::ZooKeeperServer, "chroot"),
            (Level::ZooKeeperTls, "ca"),
            (Level::Label, "min-ready"),
            (Level::Diskimage, "rebuild-age"),
            (Level::ImageBuilder, "host-keys"),
        ] {
            assert!(has(None, level, key), "{level:?} {key}");
        }
        for (driver, level, key) in [
            ("openstack", Level::Provider, "region-name"),
            ("openstack", Level::ProviderDiskimage, "meta"),
            ("openstack", Level::CloudImage, "image-id"),
            ("openstack", Level::Pool, "auto-floating-ip"),
            ("openstack", Level::PoolLabel, "volume-size"),
            ("kubernetes", Level::Pool, "default-label-cpu"),
            ("openshift", Level::PoolLabel, "image-pull-secrets"),
            ("openshiftpods", Level::PoolLabel, "cpu-limit"),
            ("static", Level::StaticNode, "host-key"),
            ("metastatic", Level::PoolLabel, "max-age"),
        ] {
            assert!(has(Some(driver), level, key), "{driver} {level:?} {key}");
        }
    }

    #[test]
    fn what_is_retired_is_no_key_of_its_part_any_more() {
        for (level, keys, _) in RETIRED {
            for known in KNOWN.iter().filter(|known| known.level == *level) {
                let again: Vec<_> = keys.iter().filter(|key| known.keys.contains(key)).collect();
                assert!(again.is_empty(), "{level:?} of {:?}: {again:?}", known.driver);
            }
        }
    }
}
