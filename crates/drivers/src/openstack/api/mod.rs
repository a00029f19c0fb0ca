//! What the two halves speak with each other: the trait [`Cloud`] and the data of its calls.
//!
//! | | what it has | imports of these |
//! |---|---|---|
//! | `error` | [`CloudError`] | |
//! | `json` | what several services' answers have in common | |
//! | `addressing` | what clouds.yaml says of addresses and networks | |
//! | `compute` | servers, flavors, limits | `error` `json` |
//! | `volumes` | volumes, limits | `json` |
//! | `network_service` | [`NetworkService`]: Neutron's calls, and their data | `error` `json` |
//! | `image_file` | [`ImageFile`]: a file on its way to a cloud | `error` |
//! | `image_service` | [`ImageService`]: Glance's calls, and their data | `error` `image_file` |
//! | `cloud` | [`Cloud`] | all of them |

mod addressing;
mod cloud;
mod compute;
mod error;
mod image_file;
mod image_service;
mod json;
mod network_service;
mod volumes;

pub(crate) use addressing::{Addressing, CloudNetwork, FloatingIpSource};
pub(crate) use cloud::{Cloud, Pace};
pub(crate) use compute::{Address, ComputeLimits, CreateServer, Fault, Flavor, Server, ServerFlavor};
pub(crate) use error::{CloudError, speaks_of_capacity, speaks_of_quota};
pub(crate) use image_file::{ImageData, ImageFile};
pub(crate) use image_service::{Image, ImageFormat, ImageService, NewImage, Route};
pub(crate) use json::{Named, limit, read_all};
pub(crate) use network_service::{
    CreateFloatingIp, ExternalNetwork, FloatingIp, NetworkQuota, NetworkService, Port, SERVER_TAG,
};
pub(crate) use volumes::{Volume, VolumeLimits};
