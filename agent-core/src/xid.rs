//! Errors that a GPU's driver reports by number (Xid), and whose failure they make an attempt's.
//!
//! The numbers and their meanings are those of NVIDIA, "Xid Errors" (the catalogue of its
//! documentation of GPU deployment). A number that is not here decides nothing.
//!
//! An error has no time but that at which the agent heard it, which is a little later. So:
//!
//! * An attempt that failed on a GPU keeps it, and is told as failed, only [`HEARD_LATE_MS`] after
//!   its process is gone: the word that explains it may still come.
//! * A program's error that is heard just after a process began may be that of the one before, and
//!   counts for neither.
//! * A process that goes on for [`NOTICED_WITHIN_MS`] after an error was not ended by it, unless
//!   the GPU is lost, which it is for all that come.

use crate::clock::Moment;
use proto::{FailureClass, Outcome};
use std::collections::BTreeMap;

/// How long after an error, or after the end of the process that met it, an agent may hear of it.
/// It listens ten times a second; the rest is for a machine that is busy with the failure.
pub(crate) const HEARD_LATE_MS: u64 = 2_000;
/// How long a program may need to end by an error of its GPU: one that waits for others waits for
/// ten minutes, PyTorch's limit for NCCL, and then has to end.
const NOTICED_WITHIN_MS: u64 = 15 * 60_000;

/// Who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blame {
    /// The GPU, its memory, its links or its firmware: another GPU may do.
    Machine,
    /// The same, and nothing runs on that GPU until somebody resets it. That takes an end of the
    /// agent too, which has the GPU open, so it need not be forgotten: the GPU is withdrawn.
    Lost,
    /// What the program did on the GPU: it would do it again.
    Program,
}

/// Number, whose it is, what it means.
const CATALOGUE: [(u64, Blame, &str); 16] = [
    (13, Blame::Program, "an exception in a kernel, such as an access out of bounds"),
    (31, Blame::Program, "a page fault: an access to an address that is not mapped"),
    (43, Blame::Program, "the GPU stopped processing after a fault of the program"),
    (48, Blame::Machine, "an error in GPU memory that cannot be corrected"),
    (62, Blame::Lost, "the GPU's internal controller halted; the GPU needs a reset"),
    (64, Blame::Machine, "a broken row of GPU memory could not be taken out of use"),
    (74, Blame::Machine, "an error of an NVLink"),
    (79, Blame::Lost, "the GPU has fallen off the bus; the machine needs a restart"),
    (94, Blame::Machine, "an error in GPU memory that was contained"),
    (95, Blame::Lost, "an error in GPU memory that was not contained; the GPU needs a reset"),
    (119, Blame::Machine, "the GPU's firmware did not answer in time"),
    (120, Blame::Machine, "an error of the GPU's firmware"),
    (140, Blame::Lost, "an error in GPU memory that cannot be mended; the GPU needs a reset"),
    (149, Blame::Machine, "an NVLink failed"),
    (171, Blame::Machine, "an error in the GPU's DRAM that cannot be corrected"),
    (172, Blame::Machine, "an error in the GPU's SRAM that cannot be corrected"),
];

// Left out: 45, the clean-up of a process that is gone, because it follows every kill too, so it
// says nothing about who began; 63 and 92, memory that was mended, which harms no program; 8, 32,
// 46 and 109, channels that stopped, which a program and the hardware do alike; 144 to 148 and 150,
// NVLinks of Blackwell, which are mostly harmless, while those that are not bring another number.

/// What a GPU's driver reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Xid {
    /// Number of the GPU.
    pub(crate) gpu: u32,
    /// Number of the error.
    pub(crate) number: u64,
}

/// What the agent's GPUs reported: at most the catalogue for each of them.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// When each error was last heard.
    last: BTreeMap<Xid, Moment>,
    /// GPUs that are lost, with the first error that said so, in words.
    lost: BTreeMap<u32, String>,
}

impl Heard {
    /// A GPU reported an error. Answers the words for it if the GPU is lost from now on.
    pub(crate) fn hear(&mut self, now: Moment, xid: Xid) -> Option<String> {
        let (blame, words) = known(xid)?;
        self.last.insert(xid, now);
        if blame != Blame::Lost || self.lost.contains_key(&xid.gpu) {
            return None;
        }
        self.lost.insert(xid.gpu, words.clone());
        Some(words)
    }

    /// GPUs on which nothing runs before somebody resets them, and why.
    pub(crate) fn lost(&self) -> &BTreeMap<u32, String> {
        &self.lost
    }

    /// What may have ended a process that was on these GPUs from `began` to `ended`.
    pub(crate) fn about(&self, gpus: &[u32], began: Moment, ended: Moment) -> Vec<Xid> {
        let of_it = |xid: &Xid, heard| {
            let (blame, _) = known(*xid)?;
            Some(gpus.contains(&xid.gpu) && decides_about(blame, heard, began, ended))
        };
        let xids = self.last.iter().filter(|(xid, heard)| of_it(xid, **heard).unwrap_or(false));
        xids.map(|(xid, _)| *xid).collect()
    }
}

/// Whether an error that was heard at `heard`, and before the attempt was told as failed, may be
/// why its process ended, which was there from `began` to `ended`.
fn decides_about(blame: Blame, heard: Moment, began: Moment, ended: Moment) -> bool {
    let is_near = ended.since_ms(heard) <= NOTICED_WITHIN_MS;
    match blame {
        Blame::Lost => true,
        // Whoever was there first, the GPU was not well.
        Blame::Machine => is_near && heard >= began,
        Blame::Program => is_near && heard >= began.plus_ms(HEARD_LATE_MS),
    }
}

/// How much is known of an attempt that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scene {
    /// The process ended without saying how.
    pub(crate) is_silent: bool,
    /// Others used the same GPU, and the driver does not say whose error it is.
    pub(crate) is_shared: bool,
}

/// Whether an error of a GPU would make another failure of this outcome.
pub(crate) fn is_open(outcome: &Outcome, scene: Scene) -> bool {
    match outcome {
        Outcome::Failed { class: FailureClass::Trial, .. } => true,
        Outcome::Failed { class: FailureClass::Infrastructure, .. } => scene.is_silent,
        Outcome::Failed { .. } | Outcome::Completed { .. } | Outcome::Diverged { .. } => false,
    }
}

/// The outcome of an attempt on whose GPUs `xids` were reported. An error of the machine makes
/// every failure one of the infrastructure; an error of a program makes the end of a process that
/// said nothing the program's own.
pub(crate) fn classed(outcome: Outcome, scene: Scene, xids: &[Xid]) -> Outcome {
    let (true, Outcome::Failed { class, message }) = (is_open(&outcome, scene), &outcome) else {
        return outcome;
    };
    let of = |is_programs: bool| {
        let found = xids.iter().filter_map(|xid| known(*xid));
        let mut found = found.filter(|(blame, _)| (*blame == Blame::Program) == is_programs);
        found.next().map(|(_, words)| words)
    };
    let (class, words) = match (of(false), of(true)) {
        (Some(words), _) => (FailureClass::Infrastructure, words),
        (None, Some(words)) if !scene.is_shared => {
            (if scene.is_silent { FailureClass::Trial } else { *class }, words)
        }
        (None, _) => return outcome,
    };
    Outcome::failed(class, format!("{words}; {message}"))
}

/// Whose an error is, and what happened.
fn known(xid: Xid) -> Option<(Blame, String)> {
    let (number, blame, meaning) = CATALOGUE.iter().find(|(number, ..)| *number == xid.number)?;
    Some((*blame, format!("GPU {} reported Xid {number} ({meaning})", xid.gpu)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use FailureClass::{Infrastructure, Invalid, Timeout, Trial};

    #[test]
    fn an_error_of_a_gpu_decides_whose_failure_it_is() {
        // Own class, silent, shared, numbers, expected class, number in the message.
        let table: [(_, bool, bool, &[u64], _, Option<u64>); 16] = [
            (Trial, false, false, &[], Trial, None),
            (Infrastructure, true, false, &[], Infrastructure, None),
            (Trial, false, false, &[79], Infrastructure, Some(79)),
            (Trial, false, true, &[48], Infrastructure, Some(48)),
            (Infrastructure, true, false, &[119], Infrastructure, Some(119)),
            // The program's errors that follow from one of the machine do not count.
            (Trial, false, false, &[31, 13, 94, 43], Infrastructure, Some(94)),
            (Trial, false, false, &[13], Trial, Some(13)),
            (Infrastructure, true, false, &[31], Trial, Some(31)),
            // It said itself what was wrong with the machine.
            (Infrastructure, false, false, &[31], Infrastructure, None),
            // Another trial on the same GPU may have done it.
            (Infrastructure, true, true, &[31], Infrastructure, None),
            (Infrastructure, true, false, &[45], Infrastructure, None),
            (Infrastructure, true, false, &[45, 43], Trial, Some(43)),
            (Trial, false, false, &[12_345], Trial, None),
            (Invalid, false, false, &[79], Invalid, None),
            (Timeout, false, false, &[79], Timeout, None),
            (FailureClass::Cancelled, false, false, &[79], FailureClass::Cancelled, None),
        ];
        for (own, is_silent, is_shared, numbers, expected, said) in table {
            let xids: Vec<Xid> = numbers.iter().map(|&number| Xid { gpu: 3, number }).collect();
            let outcome = Outcome::failed(own, "it ended");
            let found = classed(outcome, Scene { is_silent, is_shared }, &xids);
            let Outcome::Failed { class, message } = found else { panic!("{own:?} {numbers:?}") };
            assert_eq!(class, expected, "{own:?} {numbers:?}");
            let words = said.map(|number| format!("GPU 3 reported Xid {number} ("));
            assert_eq!(message.starts_with("GPU 3"), words.is_some(), "{message}");
            assert!(message.starts_with(&words.unwrap_or_default()), "{message}");
            assert!(message.ends_with("it ended"), "{message}");
        }
    }

    #[test]
    fn an_error_decides_about_the_attempt_that_it_may_have_ended() {
        use Blame::{Lost, Machine, Program};
        const MINUTE: u64 = 60_000;
        const HOUR: u64 = 60 * MINUTE;
        // Heard, began, ended; whether it decides as an error of a machine, and of a program. What
        // is heard of a GPU that is lost decides in every case.
        let table = [
            // During the attempt, just before its end, and just after it.
            (HOUR, 0, HOUR + 1, true, true),
            (HOUR, 0, HOUR, true, true),
            (HOUR + HEARD_LATE_MS - 1, 0, HOUR, true, true),
            // The process went on for long.
            (HOUR, 0, HOUR + NOTICED_WITHIN_MS, true, true),
            (HOUR, 0, HOUR + NOTICED_WITHIN_MS + 1, false, false),
            (HOUR, 0, 10 * HOUR, false, false),
            // It was there before the process.
            (HOUR - 1, HOUR, HOUR + MINUTE, false, false),
            (0, HOUR, HOUR + MINUTE, false, false),
            // It may be late, from the process before.
            (HOUR, HOUR, HOUR + MINUTE, true, false),
            (HOUR + HEARD_LATE_MS - 1, HOUR, HOUR + MINUTE, true, false),
            (HOUR + HEARD_LATE_MS, HOUR, HOUR + MINUTE, true, true),
            // A process that dies at once, and that is heard of after it.
            (HOUR + 10, HOUR, HOUR + 5, true, false),
        ];
        for (heard, began, ended, of_machine, of_program) in table {
            for (blame, expected) in [(Machine, of_machine), (Program, of_program), (Lost, true)] {
                let found = decides_about(blame, Moment(heard), Moment(began), Moment(ended));
                assert_eq!(found, expected, "{blame:?} {heard} {began} {ended}");
            }
        }
    }

    #[test]
    fn what_was_heard_is_kept_for_its_gpu_with_the_last_time() {
        let mut heard = Heard::default();
        let xid = |gpu, number| Xid { gpu, number };
        // The clean-up of killed neighbours says nothing and takes no room.
        for (at, xid) in [(1, xid(0, 45)), (2, xid(0, 74)), (9, xid(0, 74)), (9, xid(1, 31))] {
            assert_eq!(heard.hear(Moment(at), xid), None);
        }
        assert_eq!(heard.last, [(xid(0, 74), Moment(9)), (xid(1, 31), Moment(9))].into());
        let about = |gpus: &[u32], began| heard.about(gpus, Moment(began), Moment(10_000));
        assert_eq!(about(&[0], 3), [xid(0, 74)]);
        assert_eq!(about(&[0], 10), []);
        assert_eq!(about(&[1, 2], 0), []);
    }

    #[test]
    fn a_gpu_is_lost_by_the_first_error_that_needs_a_reset() {
        let mut heard = Heard::default();
        // GPU, number, and whether that is the word that the GPU is lost.
        for (gpu, number, expected) in [
            (0, 31, false),
            (0, 48, false),
            (0, 12_345, false),
            (1, 62, true),
            (1, 79, false),
            (1, 62, false),
            (2, 79, true),
            (3, 95, true),
            (4, 140, true),
        ] {
            let words = heard.hear(Moment(1), Xid { gpu, number });
            assert_eq!(words.is_some(), expected, "GPU {gpu}, Xid {number}");
            assert!(words.as_ref().is_none_or(|words| heard.lost()[&gpu] == *words));
        }
        let lost: Vec<u32> = heard.lost().keys().copied().collect();
        assert_eq!(lost, [1, 2, 3, 4]);
        assert!(heard.lost()[&1].starts_with("GPU 1 reported Xid 62 ("), "{:?}", heard.lost());
    }

    #[test]
    fn a_trial_that_ended_well_is_no_failure_of_a_gpu() {
        let outcome = Outcome::Diverged { metric: "loss".into(), step: 3 };
        let scene = Scene { is_silent: false, is_shared: false };
        assert_eq!(classed(outcome.clone(), scene, &[Xid { gpu: 0, number: 79 }]), outcome);
    }

    #[test]
    fn the_errors_of_machines_and_programs_are_told_apart() {
        let of = |blame| {
            let numbers = CATALOGUE.iter().filter(move |(_, who, _)| *who == blame);
            numbers.map(|(number, ..)| *number).collect::<Vec<_>>()
        };
        assert_eq!(of(Blame::Program), [13, 31, 43]);
        assert_eq!(of(Blame::Machine), [48, 64, 74, 94, 119, 120, 149, 171, 172]);
        assert_eq!(of(Blame::Lost), [62, 79, 95, 140]);
    }
}
