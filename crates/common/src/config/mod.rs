//! placeholder
mod types;
pub use types::*;
