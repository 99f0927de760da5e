//! `telehub tls`: a private certificate authority, the hub's certificate and those of devices, for
//! whoever has no authority of his own.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::net::UdpSocket;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use telehub::certificate::not_after;
use telehub::clock::unix_now;
use telehub::config::{self, DEFAULT_FILE};
use time::OffsetDateTime;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::moment::utc;

/// Where the package expects the files.
const DIRECTORY: &str = "/etc/telehub/tls";

/// Of the authority: longer than a board lives.
const AUTHORITY_DAYS: i64 = 20 * 365;

/// Of the hub's certificate: what is forgotten for two years and renewed by nobody still works.
const HUB_DAYS: i64 = 3 * 365;

/// Of a device's: nobody climbs on the roof each year.
const DEVICE_DAYS: i64 = 10 * 365;

/// What ends within so many days is renewed, and warned of.
const AHEAD_DAYS: i64 = 30;

const DAY: i64 = 86_400;

/// A clock that is a little behind takes what was made just now.
const BEFORE: i64 = DAY;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a private authority and the hub's certificate, or renew what ends soon
    #[command(after_help = "\
Examples:
  sudo telehub tls init
  sudo telehub tls init --name hub.example.org --name 192.168.1.10

The names of the hub are what devices connect to: host names and addresses. Without --name they are this
machine's name, its name with .local, its address now, and localhost. An authority that is there is kept;
the hub's certificate is made anew when other names are asked for or when it ends within 30 days.")]
    Init {
        /// A name or address that devices connect to; may be repeated
        #[arg(short, long = "name", value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        directory: Directory,
    },
    /// Renew the hub's certificate if it ends within 30 days; says nothing when it does not
    #[command(after_help = "\
Example:
  sudo systemctl enable --now telehub-tls.timer     # does it each day, and has the hub read it")]
    Renew {
        #[command(flatten)]
        directory: Directory,
    },
    /// Say of each certificate that the configuration names what it is for and when it ends
    #[command(after_help = "\
Examples:
  telehub tls check
  telehub tls check --config ./telehub.toml

The status is 1 when one has ended, ends within 30 days, or cannot be read.")]
    Check {
        /// The configuration file
        #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE)]
        config: PathBuf,
    },
}

/// Where authority and certificates are.
#[derive(Debug, Args)]
pub(super) struct Directory {
    /// Where the files are
    #[arg(short = 'd', long = "dir", value_name = "DIR", default_value = DIRECTORY)]
    path: PathBuf,
}

impl Directory {
    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

pub(super) fn execute(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Init { names, directory } => init(names, directory),
        Command::Renew { directory } => renew(directory),
        Command::Check { config } => check(config),
    }
}

fn init(names: &[String], directory: &Directory) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&directory.path)
        .with_context(|| format!("cannot make {}", directory.path.display()))?;
    let [authority, certificate] = ["ca.pem", "hub.pem"].map(|name| directory.file(name));
    if is_there(&directory.file("ca.key"))? {
        writeln!(out, "{}: kept", authority.display())?;
    } else {
        ensure!(
            !is_there(&authority)?,
            "{} is there without its key ca.key: nothing can be signed with it. Put the key back, or \
             move both away to begin anew",
            authority.display()
        );
        make_authority(directory)?;
        writeln!(out, "{}: made", authority.display())?;
    }
    let before = hub_names(directory)?;
    let wanted = match (names, &before) {
        ([], Some(before)) => before.clone(),
        ([], None) => own_names()?,
        (names, _) => names.iter().cloned().collect(),
    };
    if before.as_ref() == Some(&wanted) && !ends_soon(&certificate)? {
        writeln!(out, "{}: kept", certificate.display())?;
    } else {
        issue_hub(directory, &wanted)?;
        writeln!(out, "{}: made", certificate.display())?;
    }
    let names: Vec<_> = wanted.iter().map(String::as_str).collect();
    writeln!(
        out,
        "\nDevices reach the hub as: {}\n\nIn {DEFAULT_FILE}:\n\n  [devices.tls]\n  cert = \"{}\"\n  key = \
         \"{}\"\n\nEach device needs {}. Nobody else needs {}: whoever has it can pass for the \
         hub.\n\nTo have the certificate renewed in time: systemctl enable --now telehub-tls.timer",
        names.join(", "),
        certificate.display(),
        directory.file("hub.key").display(),
        authority.display(),
        directory.file("ca.key").display(),
    )?;
    Ok(())
}

fn renew(directory: &Directory) -> anyhow::Result<()> {
    let certificate = directory.file("hub.pem");
    let names = hub_names(directory)?.with_context(|| {
        format!(
            "there is no {}; telehub tls init makes it",
            certificate.display()
        )
    })?;
    if ends_soon(&certificate)? {
        issue_hub(directory, &names)?;
        writeln!(io::stdout(), "{}: renewed", certificate.display())?;
    }
    Ok(())
}

fn is_there(path: &Path) -> anyhow::Result<bool> {
    path.try_exists()
        .with_context(|| format!("cannot look for {}", path.display()))
}

/// Where the certificate of a device and its key will be. Fails if they cannot be made.
pub(super) fn prepare_device(
    id: &str,
    directory: &Directory,
    out: &Path,
) -> anyhow::Result<[PathBuf; 2]> {
    ensure!(
        is_there(&directory.file("ca.key"))?,
        "there is no authority in {}; telehub tls init makes one",
        directory.path.display()
    );
    let files = ["pem", "key"].map(|kind| out.join(format!("{id}.{kind}")));
    for path in &files {
        ensure!(!is_there(path)?, "{} is there already", path.display());
    }
    Ok(files)
}

/// A certificate for a device, signed by the authority, and its key, where [`prepare_device`] said.
pub(super) fn issue_device(
    id: &str,
    directory: &Directory,
    [certificate, key]: &[PathBuf; 2],
) -> anyhow::Result<()> {
    let params = params(
        [id.to_owned()],
        id,
        DEVICE_DAYS,
        ExtendedKeyUsagePurpose::ClientAuth,
    )?;
    sign(directory, params, certificate, key, None)
}

fn params(
    names: impl IntoIterator<Item = String>,
    common: &str,
    days: i64,
    usage: ExtendedKeyUsagePurpose,
) -> anyhow::Result<CertificateParams> {
    let names: Vec<_> = names.into_iter().collect();
    let mut params = CertificateParams::new(names.clone()).with_context(|| {
        format!(
            "not all of these can stand in a certificate: {}",
            names.join(", ")
        )
    })?;
    params.distinguished_name.push(DnType::CommonName, common);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    last(&mut params, days)?;
    Ok(params)
}

fn last(params: &mut CertificateParams, days: i64) -> anyhow::Result<()> {
    let now = now();
    ensure!(
        now > 1_600_000_000,
        "the clock of this machine is wrong ({}): a certificate that is made now would be one of the past",
        utc(now.unsigned_abs())
    );
    params.not_before = OffsetDateTime::from_unix_timestamp(now - BEFORE)?;
    params.not_after = OffsetDateTime::from_unix_timestamp(now + days * DAY)?;
    Ok(())
}

#[expect(clippy::cast_possible_truncation, reason = "seconds")]
fn now() -> i64 {
    unix_now() as i64
}

fn make_authority(directory: &Directory) -> anyhow::Result<()> {
    let mut params = CertificateParams::default();
    let host = host_name()?;
    params
        .distinguished_name
        .push(DnType::CommonName, format!("telehub {host}"));
    // It signs no other authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    last(&mut params, AUTHORITY_DAYS)?;
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    write(&directory.file("ca.key"), &key.serialize_pem(), 0o600, None)?;
    write(&directory.file("ca.pem"), &certificate.pem(), 0o644, None)
}

fn issue_hub(directory: &Directory, names: &BTreeSet<String>) -> anyhow::Result<()> {
    let common = names.first().context("a certificate needs a name")?;
    let usage = ExtendedKeyUsagePurpose::ServerAuth;
    let params = params(names.iter().cloned(), common, HUB_DAYS, usage)?;
    let [certificate, key] = ["hub.pem", "hub.key"].map(|name| directory.file(name));
    // The hub runs as a user of this group.
    sign(directory, params, &certificate, &key, group("telehub"))?;
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    write(
        &directory.file("hub.names"),
        &(names.join("\n") + "\n"),
        0o644,
        None,
    )
}

fn sign(
    directory: &Directory,
    params: CertificateParams,
    certificate: &Path,
    key_file: &Path,
    group: Option<u32>,
) -> anyhow::Result<()> {
    let read = |name| {
        let path = directory.file(name);
        fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}; is this the right user?", path.display()))
    };
    let authority = KeyPair::from_pem(&read("ca.key")?)
        .with_context(|| format!("{} holds no key", directory.file("ca.key").display()))?;
    let issuer = Issuer::from_ca_cert_pem(&read("ca.pem")?, authority)
        .with_context(|| format!("{} is no authority", directory.file("ca.pem").display()))?;
    let key = KeyPair::generate()?;
    let signed = params.signed_by(&key, &issuer)?;
    let mode = if group.is_some() { 0o640 } else { 0o600 };
    write(key_file, &key.serialize_pem(), mode, group)?;
    write(certificate, &signed.pem(), 0o644, None)
}

/// Replaces a file at once. The name of the new one is nobody else's: the directory is root's.
pub(super) fn write(path: &Path, text: &str, mode: u32, group: Option<u32>) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    let failed = || format!("cannot write {}; is this the right user?", path.display());
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(failed);
        }
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)
        .with_context(failed)?;
    // Without the right to do it there is nobody to give it to.
    if group.is_some() && fchown(&file, None, group).is_err() {
        super::complain(&format!(
            "warning: {} cannot be given to the group telehub, under which the hub reads it",
            path.display()
        ));
    }
    file.write_all(text.as_bytes()).with_context(failed)?;
    file.sync_all().with_context(failed)?;
    fs::rename(&new, path).with_context(failed)
}

/// The id of a group of this machine.
fn group(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    let line = groups
        .lines()
        .find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

fn host_name() -> anyhow::Result<String> {
    let name =
        fs::read_to_string("/proc/sys/kernel/hostname").context("this machine has no name")?;
    Ok(name.trim().to_owned())
}

/// What devices may call this machine.
fn own_names() -> anyhow::Result<BTreeSet<String>> {
    let host = host_name()?;
    let mut names: BTreeSet<_> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    if !host.contains('.') {
        names.insert(format!("{host}.local"));
    }
    names.insert(host);
    // The address from which this machine would speak to another one. Nothing is sent.
    let address = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    names.extend(address.ok().map(|address| address.ip().to_string()));
    Ok(names)
}

/// For whom the hub's certificate was made; `None`: there is none.
fn hub_names(directory: &Directory) -> anyhow::Result<Option<BTreeSet<String>>> {
    if !is_there(&directory.file("hub.pem"))? || !is_there(&directory.file("hub.key"))? {
        return Ok(None);
    }
    match fs::read_to_string(directory.file("hub.names")) {
        Ok(names) => Ok(Some(names.lines().map(str::to_owned).collect())),
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "{} was not made by telehub tls init: choose another --dir",
            directory.file("hub.pem").display()
        ),
        Err(error) => Err(error).context("cannot read hub.names"),
    }
}

/// When the first certificate of a file ends, in Unix seconds.
fn end_of(path: &Path) -> anyhow::Result<i64> {
    let first = CertificateDer::from_pem_file(path)
        .map_err(|error| anyhow::anyhow!("{} holds no certificate: {error}", path.display()))?;
    not_after(&first).with_context(|| format!("{} holds no X.509 certificate", path.display()))
}

fn ends_soon(path: &Path) -> anyhow::Result<bool> {
    Ok(end_of(path)? < now() + AHEAD_DAYS * DAY)
}

fn check(path: &Path) -> anyhow::Result<()> {
    // Alone: one file that has ended would keep the others from being told of.
    let config::Checked { config, .. } =
        config::load_alone(path).map_err(|errors| anyhow::anyhow!("{errors}"))?;
    let mut files: Vec<(&str, PathBuf)> = Vec::new();
    if let Some(tls) = &config.devices.tls {
        files.push(("the hub, to its devices", tls.cert.clone()));
        files.extend(
            tls.client_ca
                .clone()
                .map(|ca| ("the authority of devices", ca)),
        );
    }
    for tls in config
        .uplink
        .brokers
        .iter()
        .filter_map(|broker| broker.tls.as_ref())
    {
        files.extend(tls.ca.clone().map(|ca| ("the broker's authority", ca)));
        let client = tls.client.as_ref();
        files.extend(client.map(|(cert, _)| ("the hub, to the broker", cert.clone())));
    }
    files.dedup();
    let mut out = io::stdout().lock();
    if files.is_empty() {
        writeln!(
            out,
            "{} has no TLS: everybody on the network can read along. telehub tls init makes what is \
             needed",
            path.display()
        )?;
        return Ok(());
    }
    let mut wrong = 0;
    for (whose, file) in &files {
        match end_of(file) {
            Ok(end) => {
                let days = (end - now()).div_euclid(DAY);
                let state = match days {
                    ..0 => "HAS ENDED",
                    0..AHEAD_DAYS => "ENDS SOON",
                    _ => "ends",
                };
                wrong += usize::from(days < AHEAD_DAYS);
                let date = utc(end.max(0).unsigned_abs());
                let (date, _) = date.split_once('T').unwrap_or((&date, ""));
                writeln!(
                    out,
                    "{}: {whose}: {state} {date}, {days} days",
                    file.display()
                )?;
            }
            Err(error) => {
                wrong += 1;
                writeln!(out, "{}: {whose}: {error:#}", file.display())?;
            }
        }
    }
    ensure!(
        wrong == 0,
        "{wrong} of {} certificates have to be renewed or put right",
        files.len()
    );
    Ok(())
}
