//! How everything stands: what needs somebody, what waits and why, what there is. `/api/v1/overview` of a launcher.
//!
//! As with [`explain`], there are two sources: the records, which are everybody's, and what each launcher alone knows, its
//! [`Part`]. [`overview`] makes an [`Overview`] of both. All sentences in it are explanations': it words nothing anew.
//!
//! It is bounded however much there is: of requests, nodes and attention only the first ones are in it, with how many there are.

mod gather;
pub mod lists;
mod seen;

pub use self::{
    gather::{OLDEST, oldest, overview},
    seen::{
        Amount, Attention, ImagePart, ImageSeen, LabelSeen, LauncherSeen, OpenRequest, Overview, PART, Part, PoolSeen,
        ProviderPart, ProviderSeen, Waits,
    },
};
