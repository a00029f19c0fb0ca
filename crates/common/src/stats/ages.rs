//! Since when things are as they are: pure functions of the records.
//!
//! Times rather than ages: a monitoring system subtracts them from its own clock, also when nothing is reported any
//! more. Upstream measures none of this.

use std::{collections::BTreeMap, sync::Arc};

use crate::model::{
    BuildState, Entry, HasState, ImageName, LabelName, NodeState, ProviderName, Records, RequestState, Timestamp,
    UploadState,
};

/// What the metrics about ages are made of. All times are seconds since the epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ages {
    /// The requests of each state, zeros included.
    pub requests: BTreeMap<RequestState, usize>,
    /// The registered builders.
    pub builders: usize,
    /// For each label the creation of the oldest request for it that is neither fulfilled nor failed. Only those of
    /// Zuul: those of launchers have no such time, and may wait for as long as their pool is full.
    pub waiting: BTreeMap<LabelName, Timestamp>,
    /// Of a provider's nodes in a state the one that is longest in it: since when.
    pub nodes: BTreeMap<(ProviderName, NodeState), Timestamp>,
    /// When an image's newest ready build was ready; 0 where it has failed ones only.
    pub built: BTreeMap<ImageName, Timestamp>,
    /// When an image's newest failed build had failed.
    pub failed: BTreeMap<ImageName, Timestamp>,
    /// When an image's newest ready upload to a provider was ready; 0 where one is wanted that is not there.
    pub uploaded: BTreeMap<(ImageName, ProviderName), Timestamp>,
}

impl Ages {
    /// From the records. `wanted`: the images of the configuration's providers. Records that cannot be read do not
    /// count.
    pub fn of<'a>(records: &Records, wanted: impl IntoIterator<Item = (&'a ImageName, &'a ProviderName)>) -> Self {
        let mut ages = Self { builders: records.builders.len(), ..Self::default() };
        for state in RequestState::ALL {
            ages.requests.insert(*state, 0);
        }
        for request in records.requests.values().filter_map(|entry| entry.usable()) {
            *ages.requests.entry(request.state).or_default() += 1;
            if let Some(created) = request.created_time.filter(|_| request.is_open()) {
                for label in &request.node_types {
                    earliest(&mut ages.waiting, label.clone(), created);
                }
            }
        }
        for (node, since) in timed(records.nodes.values()) {
            if let Some(provider) = &node.provider {
                earliest(&mut ages.nodes, (provider.clone(), node.state), since);
            }
        }
        for (build, since) in timed(records.builds.values()) {
            match build.state {
                BuildState::Ready => latest(&mut ages.built, build.image.clone(), since),
                BuildState::Failed => {
                    latest(&mut ages.failed, build.image.clone(), since);
                    latest(&mut ages.built, build.image.clone(), 0.0);
                }
                BuildState::Building | BuildState::Deleting => {}
            }
        }
        for (upload, since) in timed(records.uploads.values()) {
            if upload.state == UploadState::Ready {
                latest(&mut ages.uploaded, (upload.image.clone(), upload.provider.clone()), since);
            }
        }
        for (image, provider) in wanted {
            if ages.built.get(image).is_some_and(|built| *built > 0.0) {
                latest(&mut ages.uploaded, (image.clone(), provider.clone()), 0.0);
            }
        }
        ages
    }
}

fn timed<'a, T: HasState + 'a>(
    entries: impl Iterator<Item = &'a Arc<Entry<T>>>,
) -> impl Iterator<Item = (&'a T, Timestamp)> {
    entries.filter_map(|entry| Some((entry.usable()?.as_ref(), entry.order()?)))
}

fn earliest<K: Ord>(times: &mut BTreeMap<K, Timestamp>, key: K, time: Timestamp) {
    times.entry(key).and_modify(|known| *known = known.min(time)).or_insert(time);
}

fn latest<K: Ord>(times: &mut BTreeMap<K, Timestamp>, key: K, time: Timestamp) {
    times.entry(key).and_modify(|known| *known = known.max(time)).or_insert(time);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{ImageBuild, ImageUpload, Node, NodeRequest, Stat, UploadKey};

    fn entry<T>(record: T) -> Arc<Entry<T>> {
        Entry::unlocked(Ok(Arc::new(record)), Stat::default())
    }

    fn request(state: RequestState, labels: &[&str], created: Option<f64>) -> Arc<Entry<NodeRequest>> {
        let mut request = NodeRequest::min_ready(&"x".into(), String::new(), 5.0);
        request.state = state;
        request.node_types = labels.iter().map(|label| (*label).into()).collect();
        request.created_time = created;
        entry(request)
    }

    #[test]
    fn a_label_waits_since_its_oldest_request_of_zuuls_was_made() {
        let mut records = Records::default();
        for (id, request) in [
            ("1", request(RequestState::Requested, &["a", "b"], Some(30.0))),
            ("2", request(RequestState::Pending, &["a"], Some(20.0))),
            ("3", request(RequestState::Fulfilled, &["a"], Some(10.0))),
            ("4", request(RequestState::Failed, &["c"], Some(10.0))),
            ("5", request(RequestState::Requested, &["d"], None)),
        ] {
            records.requests.insert(id.into(), request);
        }
        let ages = Ages::of(&records, []);
        assert_eq!(ages.waiting, BTreeMap::from([("a".into(), 20.0), ("b".into(), 30.0)]));
        let counts = [RequestState::Requested, RequestState::Pending, RequestState::Fulfilled, RequestState::Failed];
        assert_eq!(counts.map(|state| ages.requests[&state]), [2, 1, 1, 1]);
    }

    #[test]
    fn of_nodes_in_one_state_the_oldest_counts() {
        let mut records = Records::default();
        for (id, provider, state, time) in [
            ("1", Some("rdo"), NodeState::Deleting, 20.0),
            ("2", Some("rdo"), NodeState::Deleting, 10.0),
            ("3", Some("rdo"), NodeState::Ready, 5.0),
            ("4", None, NodeState::Deleted, 1.0),
        ] {
            let mut node = Node::new(time);
            node.provider = provider.map(Into::into);
            node.set_state(state, time);
            records.nodes.insert(id.into(), entry(node));
        }
        let expected = [(("rdo".into(), NodeState::Deleting), 10.0), (("rdo".into(), NodeState::Ready), 5.0)];
        assert_eq!(Ages::of(&records, []).nodes, BTreeMap::from(expected));
    }

    fn add_build(records: &mut Records, image: &str, id: &str, state: &str, time: f64) {
        let data = json!({"state": state, "state_time": time}).to_string();
        let (build, _) = ImageBuild::read(image.into(), id.into(), data.as_bytes()).unwrap();
        records.builds.insert((image.into(), id.into()), entry(build));
    }

    fn add_upload(records: &mut Records, image: &str, provider: &str, state: &str, time: f64) {
        let data = json!({"state": state, "state_time": time}).to_string();
        let id = format!("{time:010}");
        let key =
            UploadKey { image: image.into(), provider: provider.into(), build: "b".into(), id: id.as_str().into() };
        let (upload, _) =
            ImageUpload::read(image.into(), "b".into(), provider.into(), id.as_str().into(), data.as_bytes()).unwrap();
        records.uploads.insert(key, entry(upload));
    }

    #[test]
    fn the_newest_build_and_upload_count_and_what_is_wanted_and_not_there_is_at_zero() {
        let mut records = Records::default();
        add_build(&mut records, "jammy", "1", "ready", 10.0);
        add_build(&mut records, "jammy", "2", "ready", 20.0);
        add_build(&mut records, "jammy", "3", "failed", 30.0);
        add_build(&mut records, "jammy", "4", "building", 40.0);
        add_build(&mut records, "broken", "5", "failed", 50.0);
        add_build(&mut records, "new", "6", "building", 60.0);
        add_upload(&mut records, "jammy", "rdo", "ready", 11.0);
        add_upload(&mut records, "jammy", "rdo", "ready", 21.0);
        add_upload(&mut records, "jammy", "rdo", "failed", 31.0);
        let names: [ImageName; 3] = ["jammy".into(), "broken".into(), "new".into()];
        let providers: [ProviderName; 2] = ["rdo".into(), "aws".into()];
        let ages = Ages::of(&records, names.iter().flat_map(|image| providers.iter().map(move |to| (image, to))));
        let [jammy, broken, _] = names;
        assert_eq!(ages.built, BTreeMap::from([(broken.clone(), 0.0), (jammy.clone(), 20.0)]));
        assert_eq!(ages.failed, BTreeMap::from([(broken, 50.0), (jammy.clone(), 30.0)]));
        let [rdo, aws] = providers;
        assert_eq!(ages.uploaded, BTreeMap::from([((jammy.clone(), aws), 0.0), ((jammy, rdo), 21.0)]));
    }
}
