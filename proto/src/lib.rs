//! The words that every part of Brine shares.
//!
//! * [`ids`]: names of experiments, trials, attempts, agents and blobs.
//! * [`spec`]: what a trial is ([`TrialSpec`]): runner, resources, seed, parameters.
//! * [`train`]: what the `train` runner trains ([`TrainSpec`]).
//! * [`grpo`]: what the `grpo` runner trains ([`GrpoSpec`]).
//! * [`optimizer`]: how it moves the weights ([`Optimizer`], [`Schedule`]).
//! * [`outcome`]: how a trial ended ([`Outcome`]) and what it saved ([`Checkpoint`]).
//! * [`notice`]: what an agent noticed about a training ([`Notice`]).
//! * [`number`]: numbers in JSON that may be undefined.
//! * [`event`]: one recorded fact ([`Event`]). Journal, live stream and replay use this type.
//! * `wire` (feature `wire`): the gRPC messages. They stop at the edge of each process.
//!
//! No logic lives here beyond validation and identity, and nothing does I/O.

pub mod event;
pub mod grpo;
pub mod ids;
pub mod notice;
pub mod number;
pub mod optimizer;
pub mod outcome;
pub mod spec;
pub mod train;
#[cfg(feature = "wire")]
pub mod wire;

pub use event::{Event, ExperimentState, Member, Record};
pub use grpo::GrpoSpec;
pub use ids::{AgentId, Attempt, AttemptKey, BlobId, ExperimentId, IdError, Timestamp, TrialId};
pub use notice::{Notice, NoticeKind};
pub use optimizer::{AdamW, DecayShape, Lion, Muon, MuonScale, Optimizer, Rest, Schedule, Sgd};
pub use outcome::{Checkpoint, CheckpointFile, FailureClass, MetricPoint, Outcome};
pub use spec::{
    BlobRef, CommandSpec, Devices, Inputs, Placement, Resources, Retries, Runner, TrialSpec, Value,
};
pub use train::{
    Budget, DataSpec, Mlp, ModelSpec, Norm, Packing, Positions, Precision, Scoring, TokenFormat,
    TokenizerSpec, TrainSpec, Validation,
};

/// Version of the journal's and the wire's format. A peer or a journal with a newer one is refused.
/// Older journals are read; an older peer is refused from [`WIRE_VERSION_MIN`] down.
pub const FORMAT_VERSION: u32 = 2;

/// Oldest version that a peer may speak. Version 1 takes a change of an assignment for the whole.
pub const WIRE_VERSION_MIN: u32 = 2;
