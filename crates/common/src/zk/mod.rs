//! placeholder: see the contract in docs/zk-contract.md
