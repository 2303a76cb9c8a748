//! Errors that a GPU's driver reports by number (Xid), and whose failure they make an attempt's.
//!
//! The numbers and their meanings are those of NVIDIA, "Xid Errors" (the catalogue of its
//! documentation of GPU deployment). A number that is not here decides nothing.

use proto::{FailureClass, Outcome};

/// Who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blame {
    /// The GPU, its memory, its links or its firmware: another GPU may do.
    Machine,
    /// What the program did on the GPU: it would do it again.
    Program,
}

/// Number, whose it is, what it means.
const CATALOGUE: [(u64, Blame, &str); 11] = [
    (13, Blame::Program, "an exception in a kernel, such as an access out of bounds"),
    (31, Blame::Program, "a page fault: an access to an address that is not mapped"),
    (43, Blame::Program, "the GPU stopped processing after a fault of the program"),
    (48, Blame::Machine, "an error in GPU memory that cannot be corrected"),
    (64, Blame::Machine, "a broken row of GPU memory could not be taken out of use"),
    (74, Blame::Machine, "an error of an NVLink"),
    (79, Blame::Machine, "the GPU has fallen off the bus"),
    (94, Blame::Machine, "an error in GPU memory that was contained"),
    (95, Blame::Machine, "an error in GPU memory that was not contained"),
    (119, Blame::Machine, "the GPU's firmware did not answer in time"),
    (120, Blame::Machine, "an error of the GPU's firmware"),
];

// Left out: 45, the clean-up of a process that is gone, because it follows every kill too, so it
// says nothing about who began; 63 and 92, memory that was mended, which harms no program.

/// What a GPU's driver reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Xid {
    /// Number of the GPU.
    pub(crate) gpu: u32,
    /// Number of the error.
    pub(crate) number: u64,
}

/// How much is known of an attempt that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scene {
    /// The process ended without saying how.
    pub(crate) is_silent: bool,
    /// Others used the same GPU, and the driver does not say whose error it is.
    pub(crate) is_shared: bool,
}

/// The outcome of an attempt on whose GPUs `xids` were reported. An error of the machine makes
/// every failure one of the infrastructure; an error of a program makes the end of a process that
/// said nothing the program's own.
pub(crate) fn classed(outcome: Outcome, scene: Scene, xids: &[Xid]) -> Outcome {
    let Outcome::Failed { class, message } = &outcome else { return outcome };
    if !matches!(class, FailureClass::Trial | FailureClass::Infrastructure) {
        return outcome;
    }
    let of = |blame| xids.iter().find_map(|xid| known(*xid).filter(|(who, _)| *who == blame));
    let (class, words) = match (of(Blame::Machine), of(Blame::Program)) {
        (Some((_, words)), _) => (FailureClass::Infrastructure, words),
        (None, Some((_, words))) if !scene.is_shared => {
            (if scene.is_silent { FailureClass::Trial } else { *class }, words)
        }
        (None, _) => return outcome,
    };
    Outcome::failed(class, format!("{words}; {message}"))
}

impl Xid {
    /// Whether it says anything about an attempt.
    pub(crate) fn decides(self) -> bool {
        known(self).is_some()
    }
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
            (Infrastructure, false, false, &[31], Infrastructure, Some(31)),
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
        assert_eq!(of(Blame::Machine), [48, 64, 74, 79, 94, 95, 119, 120]);
    }
}
