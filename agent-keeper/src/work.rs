//! The folders of a program's attempt: `work`, `output`, and one for checkpoints that all attempts
//! of the trial share. Making and removing folders costs more than a short program, so those in
//! which a program left nothing are renamed for the next one.

use crate::command::{Refusal, infrastructure, invalid};
use crate::order::Order;
use proto::{BlobRef, CommandSpec, Outcome};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Starts of one attempt. An attempt is started once by each life of an agent.
const STARTS_MAX: u32 = 10_000;
/// Folders in an attempt's own before anything was left there.
const OWN_FOLDERS: usize = 2;

/// Makes the folders of an attempt, which `order.folders` names from then on, and puts the
/// command's files into its working folder. Copies them, which takes its time when they are large.
///
/// # Errors
/// A name is not a plain file name, or the disk refuses.
pub fn prepare(order: &mut Order, spec: &CommandSpec) -> Result<(), Refusal> {
    let wanted = order.folders.attempt.clone();
    let made = numbered(&wanted, |path| fs::create_dir(path));
    order.folders.attempt =
        made.map_err(|error| infrastructure("cannot make the folder", &wanted, &error))?;
    for folder in [working_folder(order), output_folder(order)] {
        fs::create_dir(&folder)
            .map_err(|error| infrastructure("cannot make the folder", &folder, &error))?;
    }
    let shared = &order.folders.program_checkpoints;
    fs::create_dir_all(shared)
        .map_err(|error| infrastructure("cannot make the folder", shared, &error))?;
    copy_files(&spec.files, &order.folders.blobs, &working_folder(order))
}

fn copy_files(
    files: &BTreeMap<String, BlobRef>,
    blobs: &Path,
    folder: &Path,
) -> Result<(), Refusal> {
    for (name, blob) in files {
        let plain = Path::new(name).file_name().is_some_and(|plain| plain == name.as_str());
        if !plain {
            return Err(invalid(format!("{name:?} is not a plain file name")));
        }
        // A copy: a program that edits its script must not change other trials' script.
        let target = folder.join(name);
        fs::copy(blobs.join(blob.blob.as_str()), &target)
            .map_err(|error| infrastructure("cannot write", &target, &error))?;
    }
    Ok(())
}

/// Where a program runs unless its recipe says otherwise.
pub(crate) fn working_folder(order: &Order) -> PathBuf {
    order.folders.attempt.join("work")
}

/// Where a program puts what it makes.
pub(crate) fn output_folder(order: &Order) -> PathBuf {
    order.folders.attempt.join("output")
}

/// Folders that wait for a program.
#[derive(Debug)]
pub(crate) struct Spares {
    /// Where they wait; on the disk of the attempts.
    folder: PathBuf,
    made: u64,
    attempts: Vec<PathBuf>,
    shared: Vec<PathBuf>,
}

impl Spares {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, made: 0, attempts: Vec::new(), shared: Vec::new() }
    }

    /// Gives an attempt its folders, which `order.folders` names from then on.
    ///
    /// # Errors
    /// The disk refuses.
    pub(crate) fn give(&mut self, order: &mut Order) -> Result<(), Refusal> {
        let wanted = order.folders.attempt.clone();
        let given = self.give_attempt(&wanted);
        order.folders.attempt =
            given.map_err(|error| infrastructure("cannot make the folder", &wanted, &error))?;
        let shared = &order.folders.program_checkpoints;
        self.give_shared(shared)
            .map_err(|error| infrastructure("cannot make the folder", shared, &error))
    }

    fn give_attempt(&mut self, wanted: &Path) -> io::Result<PathBuf> {
        let spare = match self.attempts.pop() {
            Some(spare) => spare,
            None => {
                let spare = self.name();
                for own in ["work", "output"] {
                    fs::create_dir_all(spare.join(own))?;
                }
                spare
            }
        };
        let given = numbered(wanted, |path| fs::rename(&spare, path));
        if given.is_err() {
            self.attempts.push(spare);
        }
        given
    }

    fn give_shared(&mut self, wanted: &Path) -> io::Result<()> {
        let spare = match self.shared.pop() {
            Some(spare) => spare,
            None => {
                let spare = self.name();
                fs::create_dir_all(&spare)?;
                spare
            }
        };
        let given = with_parent(wanted, |path| fs::rename(&spare, path));
        let Err(error) = given else { return Ok(()) };
        self.shared.push(spare);
        // An earlier attempt left something, or the checkpoints have a disk of their own.
        if taken(&error) { Ok(()) } else { fs::create_dir_all(wanted) }
    }

    /// Takes the folders back in which an attempt left nothing; answers its own if that stays.
    pub(crate) fn take_back(
        &mut self,
        order: &Order,
        outcome: Option<&Outcome>,
    ) -> Option<PathBuf> {
        // Another agent may be about to use the shared folder of a trial that is not over.
        let shared = &order.folders.program_checkpoints;
        if matches!(outcome, Some(Outcome::Completed { .. })) && holds(shared, 0) {
            let spare = self.name();
            match fs::rename(shared, &spare) {
                Ok(()) => self.shared.push(spare),
                Err(_) => remove_if_empty(shared),
            }
        }
        let attempt = &order.folders.attempt;
        let (work, output) = (working_folder(order), output_folder(order));
        if holds(attempt, OWN_FOLDERS) && holds(&work, 0) && holds(&output, 0) {
            let spare = self.name();
            if fs::rename(attempt, &spare).is_ok() {
                self.attempts.push(spare);
                return None;
            }
        }
        remove_if_empty(&work);
        remove_if_empty(&output);
        remove_if_empty(attempt);
        attempt.exists().then(|| attempt.clone())
    }

    fn name(&mut self) -> PathBuf {
        self.made += 1;
        self.folder.join(format!("spare.{}", self.made))
    }
}

/// Whether a folder is as the keeper made it, with so many entries in it.
fn holds(folder: &Path, entries: usize) -> bool {
    let owner_may_all = |metadata: fs::Metadata| metadata.permissions().mode() & 0o700 == 0o700;
    fs::metadata(folder).is_ok_and(owner_may_all)
        && fs::read_dir(folder).is_ok_and(|found| found.take(entries + 1).count() == entries)
}

fn remove_if_empty(folder: &Path) {
    match fs::remove_dir(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
        Err(error) => {
            tracing::warn!(%error, path = %folder.display(), "a folder was not removed");
        }
    }
}

/// Makes `wanted` with `make`, or `<wanted>.1` and so on when it exists.
///
/// # Errors
/// The disk refuses.
pub fn numbered(wanted: &Path, make: impl Fn(&Path) -> io::Result<()>) -> io::Result<PathBuf> {
    for count in 0..STARTS_MAX {
        let path = match count {
            0 => wanted.to_owned(),
            count => {
                let mut name = wanted.as_os_str().to_owned();
                name.push(format!(".{count}"));
                name.into()
            }
        };
        match with_parent(&path, &make) {
            Ok(()) => return Ok(path),
            Err(error) if taken(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!("{} was started too often", wanted.display())))
}

/// Makes `path` with `make`, and before that its parent when it is not there.
fn with_parent(path: &Path, make: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    match make(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
            make(path)
        }
        made => made,
    }
}

fn taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty)
}
