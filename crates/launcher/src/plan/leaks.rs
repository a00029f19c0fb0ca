//! Leaks: what of a search in a cloud may be removed, and what is held back ([`brake`] has the rule, and why there is one).
//!
//! Here are the signs that the records are not those of what the cloud has, as far as a launcher can know:
//!
//! * A resource names a node which this ZooKeeper has not given out yet. Node ids are numbered in the order of their creation
//!   and never used again; only a ZooKeeper that was emptied, or set back to an older state, counts anew. One such resource is
//!   enough, on a site of any size.
//! * Images of our builds are in the cloud, the configuration uploads images to it, and not one upload to it is on record as
//!   ready, or none of the images that the cloud lists is on record. Builders keep the newest ones, so there always is one, once
//!   there has been one. This is about images alone.
//!
//! What ends between the listing of the cloud and the look at the records seems to have leaked, once. So a search reckons with
//! what the last one has found, too, and with nothing else. Only where records are sure to be lost, or what is held back is not
//! known in full, all is held back at the first sight: the signs fade as records grow.
//!
//! Where neither shows (the records are an older copy, the images of it are other ones), the bound on one search remains.

use std::collections::BTreeSet;

use nodepool_common::{
    config::{Config, Provider},
    model::{
        HeldBack, Holder, NodeId, Records, UploadState,
        brake::{Count, Search, Sort, Standing, Verdict, judge},
    },
};

/// A resource that carries our provider's name.
#[derive(Clone, Debug)]
pub struct Tagged {
    /// What it is: `instances`, `images`, …
    pub kind: &'static str,
    /// The cloud's id.
    pub id: String,
    /// Whether it is an image that a builder has uploaded.
    pub is_image: bool,
    /// The node that it was made for.
    pub node: Option<NodeId>,
    /// What records say of it.
    pub standing: Standing,
    /// Whether the last search has found it as leaked, too.
    pub is_confirmed: bool,
}

/// One search in a provider's cloud.
#[derive(Debug)]
pub struct LeakSearch<'a> {
    /// Seconds since the epoch.
    pub now: i64,
    /// This host's name.
    pub host: &'a str,
    /// The provider's configuration.
    pub provider: &'a Provider,
    /// ZooKeeper, as last seen; read after the cloud was listed.
    pub records: &'a Records,
    /// What the cloud has of ours.
    pub tagged: &'a [Tagged],
    /// The kinds that could not be listed.
    pub unlisted: &'a BTreeSet<&'static str>,
    /// The number of the next node that is created; read after the cloud was listed. `None`: not known.
    pub next_node: Option<u64>,
}

impl LeakSearch<'_> {
    /// What may be removed, and what is to be on record as held back.
    pub fn judge(&self) -> Verdict {
        let holder = Holder::Provider(self.provider.name.clone());
        // One that cannot be read holds back as well.
        let unusable = HeldBack::default();
        let held = self.records.held_back.get(&holder);
        let held = held.map(|entry| entry.usable().map_or(&unusable, AsRef::as_ref));
        let doubt = self.doubt();
        let holds_servers =
            held.is_some_and(|held| held.items.iter().any(|item| Sort::of(&item.kind) == Sort::Servers));
        let at_first_sight = held.is_some_and(|held| !held.is_whole()) || (doubt.is_some() && !holds_servers);
        let is_found = |tagged: &&Tagged| is_leaked(tagged) && (tagged.is_confirmed || at_first_sight);
        let thing = |tagged: &Tagged| (tagged.kind.to_owned(), tagged.id.clone());
        let found = |tagged: &Tagged| match &tagged.standing {
            Standing::Leaked(why) if is_found(&tagged) => Some((thing(tagged), why.clone())),
            _ => None,
        };
        let is_open = |tagged: &&Tagged| tagged.standing != Standing::Known && !is_found(tagged);
        // A cloud may fail to list a kind for longer than a thing that is gone is waited for.
        let unseen =
            held.into_iter().flat_map(|held| &held.items).filter(|item| self.unlisted.contains(item.kind.as_str()));
        let unseen = unseen.map(|item| (item.kind.clone(), item.id.clone()));
        let count = |sort, name, images: bool| {
            let of_sort = || self.tagged.iter().filter(|tagged| tagged.is_image == images);
            let known = of_sort().filter(|tagged| !is_leaked(tagged)).count();
            Count { sort, name, found: of_sort().filter(is_found).count(), known }
        };
        let search = Search {
            now: self.now,
            host: self.host.to_owned(),
            found: self.tagged.iter().filter_map(found).collect(),
            open: self.tagged.iter().filter(is_open).map(thing).chain(unseen).collect(),
            known: self.tagged.iter().filter(|tagged| tagged.standing == Standing::Known).map(thing).collect(),
            counts: vec![count(Sort::Servers, "resources of nodes", false), count(Sort::Images, "images", true)],
            doubt,
            image_doubt: self.image_doubt(self.tagged.iter().filter(is_found).filter(|tagged| tagged.is_image).count()),
        };
        judge(&search, held)
    }

    /// Nodes that resources name and that are on no record: their numbers must not be given to new nodes, which would be
    /// taken for the old ones.
    pub fn named_nodes(&self) -> BTreeSet<NodeId> {
        let named = self.tagged.iter().filter_map(|tagged| tagged.node.as_ref());
        named.filter(|node| !self.records.nodes.contains_key(*node)).cloned().collect()
    }

    /// By numbers of nodes. One search is enough: a number that is not given out yet was never on record here.
    fn doubt(&self) -> Option<String> {
        let next = self.next_node?;
        let number = |tagged: &Tagged| tagged.node.as_ref()?.as_str().parse::<u64>().ok();
        let leaked = self.tagged.iter().filter(|tagged| is_leaked(tagged));
        let beyond: Vec<u64> = leaked.filter_map(number).filter(|number| *number >= next).collect();
        beyond.iter().max().map(|highest| {
            format!(
                "{} of them name nodes that this ZooKeeper has not given out yet, up to {highest:010} (its next one is \
                 {next:010}): it was emptied, or set back to an older state",
                beyond.len()
            )
        })
    }

    /// Of so many images that have leaked.
    fn image_doubt(&self, images: usize) -> Option<String> {
        let has_ready = self.records.uploads.iter().any(|(key, entry)| {
            key.provider == self.provider.name
                && entry.usable().is_some_and(|upload| upload.state == UploadState::Ready)
        });
        let knows_one = self.tagged.iter().any(|tagged| tagged.is_image && tagged.standing == Standing::Known);
        let missing = match (has_ready, knows_one) {
            (false, _) => "no upload to it is on record as ready",
            (true, false) => "none of the images in its cloud is on record",
            (true, true) => return None,
        };
        (images > 0 && !self.provider.driver.diskimages().is_empty()).then(|| {
            format!(
                "there are {images} images of builds, the configuration lists diskimages for the provider, and {missing}"
            )
        })
    }
}

fn is_leaked(tagged: &Tagged) -> bool {
    matches!(tagged.standing, Standing::Leaked(_))
}

/// Whether nobody is there who would look after what is held back: no launcher has the provider, or the builder does not run.
pub fn is_unclaimed(holder: &Holder, held: Option<&HeldBack>, records: &Records, config: &Config) -> bool {
    match holder {
        Holder::Provider(name) => {
            let has_it = records.pools.values().any(|pool| pool.provider_name.as_ref() == Some(name));
            !has_it && !config.providers.contains_key(name)
        }
        Holder::Builder(_) => {
            // A builder's component is named after its host, with ten digits behind it.
            let host = |znode: &String| znode.len().checked_sub(10).and_then(|end| znode.get(..end)).map(str::to_owned);
            let runs =
                |held: &HeldBack| records.builders.keys().any(|znode| host(znode).as_deref() == Some(&held.host));
            !held.is_some_and(runs)
        }
    }
}
