//! [`Plan`]: what a seed decides before a history of builders begins.

use std::{collections::BTreeSet, fmt, path::Path, time::Duration};

use serde_json::{Value, json};

use super::super::{chance::Chance, plan as launchers};

/// The kinds of trouble, each named once: what is not in the list of all is never drawn.
macro_rules! troubles {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// A kind of trouble. Each history has some of them: those that leave one out find what it would hide.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Trouble {
            $($(#[$doc])* $name,)+
        }

        /// All of them.
        pub const TROUBLES: &[Trouble] = &[$(Trouble::$name),+];
    };
}

troubles! {
    /// Of the network, as launchers have it.
    AnswersLost,
    /// Likewise.
    RequestsLost,
    /// Likewise.
    Breaks,
    /// Likewise.
    Expiry,
    /// Likewise.
    Slow,
    /// The clouds answer with errors.
    CloudErrors,
    /// A call takes minutes and fails.
    Hangs,
    /// A cloud is away for a while.
    Away,
    /// An upload fails after its image was made, and the image stays.
    ImagesLeft,
    /// Deleted images are listed for minutes.
    Lingering,
    /// Somebody deletes images in the cloud.
    Vanishing,
    /// The program that builds fails, be it with half of the files.
    BuildsFail,
    /// It does not end.
    BuildsHang,
    /// It ends well without one of its files, or with a checksum that cannot be written.
    BuildsLack,
    /// A disk is full for a while.
    DiskFull,
    /// Somebody deletes files of a build.
    FilesLost,
    /// Somebody asks for builds.
    Requested,
    /// Somebody deletes builds.
    BuildsDeleted,
    /// Somebody deletes uploads.
    UploadsDeleted,
    /// Somebody pauses an image for a while.
    Paused,
    /// The configuration changes.
    Reconfigured,
    /// A builder is killed; its session expires later.
    Killed,
    /// It is killed right after a write to ZooKeeper.
    KilledAtWrite,
    /// It is killed while the cloud makes an image.
    KilledAtUpload,
    /// It is stopped and started again.
    Restarted,
    /// A builder's clock is set.
    ClockSet,
}

/// A diskimage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub name: &'static str,
    pub rebuild_age: u64,
    pub delete_after_upload: bool,
}

/// A provider with its images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    pub name: &'static str,
    pub format: &'static str,
    pub images: BTreeSet<&'static str>,
}

/// See the module's comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    pub troubles: BTreeSet<Trouble>,
    /// Builders with the same configuration, each with its own images-dir.
    pub builders: usize,
    pub build_workers: usize,
    pub images: Vec<Image>,
    pub providers: Vec<Provider>,
    /// When troubles end.
    pub calm_after: Duration,
}

/// `build-timeout` of each diskimage.
pub const BUILD_TIMEOUT: u64 = 900;

impl Plan {
    /// That of a seed.
    pub fn of(seed: u64) -> Self {
        let chance = Chance::of(seed, "plan of builders");
        let share = *chance.pick(&[2, 2, 3, 5]);
        let mut troubles = BTreeSet::new();
        if !chance.one_in(20) {
            troubles.extend(TROUBLES.iter().copied().filter(|_| chance.one_in(share)));
        }
        let names = ["i", "i-j", "k"];
        let images: Vec<_> = names[..=chance.below(3)]
            .iter()
            .map(|name| Image {
                name,
                rebuild_age: *chance.pick(&[900, 1800, 7200]),
                delete_after_upload: chance.one_in(4),
            })
            .collect();
        let providers = [("p", "qcow2"), ("q", *chance.pick(&["raw", "qcow2"])), ("r", "vhd")];
        let providers = providers[..=chance.below(3)]
            .iter()
            .map(|(name, format)| {
                let of = images.iter().map(|image| image.name).filter(|_| !chance.one_in(5)).collect();
                Provider { name, format, images: of }
            })
            .collect();
        Self {
            seed,
            troubles,
            builders: *chance.pick(&[1, 1, 2, 3]),
            build_workers: 1 + chance.below(2),
            images,
            providers,
            calm_after: Duration::from_secs(*chance.pick(&[1800, 3600, 7200])),
        }
    }

    /// Whether it has that trouble.
    pub fn has(&self, trouble: Trouble) -> bool {
        self.troubles.contains(&trouble)
    }

    /// The network's part of it.
    pub fn network(&self) -> launchers::Plan {
        let same = [
            (Trouble::AnswersLost, launchers::Trouble::AnswersLost),
            (Trouble::RequestsLost, launchers::Trouble::RequestsLost),
            (Trouble::Breaks, launchers::Trouble::Breaks),
            (Trouble::Expiry, launchers::Trouble::Expiry),
            (Trouble::Slow, launchers::Trouble::Slow),
        ];
        let troubles = same.into_iter().filter(|(ours, _)| self.has(*ours)).map(|(_, theirs)| theirs).collect();
        launchers::Plan { troubles, ..launchers::Plan::of(self.seed) }
    }

    /// An image's providers.
    pub fn providers_of<'a>(&'a self, image: &'a str) -> impl Iterator<Item = &'a Provider> {
        self.providers.iter().filter(move |provider| provider.images.contains(image))
    }

    /// The formats of an image: those of its providers.
    pub fn formats(&self, image: &str) -> BTreeSet<&'static str> {
        self.providers_of(image).map(|provider| provider.format).collect()
    }

    /// Whether an image is configured.
    pub fn has_image(&self, image: &str) -> bool {
        self.images.iter().any(|of| of.name == image)
    }

    /// The configuration file of a builder with these directories.
    pub fn config(&self, images_dir: &Path, log_dir: &Path) -> Value {
        let images: Vec<_> = self
            .images
            .iter()
            .map(|image| {
                json!({
                    "name": image.name, "rebuild-age": image.rebuild_age, "delete-after-upload": image.delete_after_upload,
                    "build-timeout": BUILD_TIMEOUT, "dib-cmd": "/nowhere/build",
                })
            })
            .collect();
        let providers: Vec<_> = self
            .providers
            .iter()
            .map(|provider| {
                let of: Vec<_> = provider.images.iter().map(|name| json!({"name": name})).collect();
                json!({"name": provider.name, "driver": "fake", "cloud": "fake", "pools": [], "diskimages": of})
            })
            .collect();
        json!({
            "zookeeper-servers": [{"host": "127.0.0.1", "port": 2281}], "labels": [], "images-dir": images_dir,
            "build-log-dir": log_dir, "diskimages": images, "providers": providers,
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} builders of {} builds at a time, troubles for {} s",
            self.seed,
            self.builders,
            self.build_workers,
            self.calm_after.as_secs()
        )?;
        for image in &self.images {
            writeln!(f, "  {image:?}")?;
        }
        for provider in &self.providers {
            writeln!(f, "  {provider:?}")?;
        }
        write!(f, "  troubles: {:?}", self.troubles)
    }
}
