//! clouds.yaml and what belongs to it, read as openstacksdk reads them.
//!
//! | | what it reads | imports of these |
//! |---|---|---|
//! | `values` | a text, a switch | |
//! | `config_files` | files, from where the SDK looks for them | |
//! | `cloud_environment` | the cloud that the environment describes (`OS_*`) | |
//! | `cloud_entry` | which cloud is meant | `config_files` `cloud_environment` |
//! | `vendors` | the profiles that the SDK carries | `config_files` |
//! | `remote_profiles` | those that vendors publish | `config_files` `vendors` |
//! | `profiles` | a cloud's profile, wherever it comes from | `config_files` `vendors` `remote_profiles` |
//! | `regions` | a cloud's region | `values` `config_files` |
//! | `credentials` | [`Credentials`]: how to log in | `values` |
//! | `cloud_networks` | networks and floating IPs | `values` |
//! | `sdk_statsd` | where calls are counted in statsd | `values` `config_files` |
//! | `clouds_yaml` | [`CloudSettings`]: all of that | all of them |

mod cloud_entry;
mod cloud_environment;
mod cloud_networks;
mod clouds_yaml;
mod config_files;
mod credentials;
mod profiles;
mod regions;
mod remote_profiles;
mod sdk_statsd;
mod values;
mod vendors;

pub(crate) use self::{clouds_yaml::CloudSettings, config_files::fingerprint, credentials::Credentials};
