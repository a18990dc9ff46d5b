//! Attempts to break out of the sandbox.

/// A folder outside of the sandbox.
pub const OUTSIDE: &str = "/tmp/corpusmith-outside";

/// A piece of Python that succeeds where nothing confines it.
pub struct Attempt {
    pub name: &'static str,
    code: &'static str,
    /// It may be run outside, where it succeeds for an ordinary user as well.
    pub harmless: bool,
}

/// What the attempts share. `call` makes a system call and raises where it fails.
const TOOLS: &str = "
import ctypes, os, socket, struct, sys, time
OUT = '/tmp/corpusmith-outside'
libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == 'x86_64'
NUMBERS = {  # (x86_64, aarch64)
    'ptrace': (101, 117), 'mount': (165, 40), 'umount2': (166, 39), 'unshare': (272, 97), 'setns': (308, 268),
    'pivot_root': (155, 41), 'io_uring_setup': (425, 425), 'bpf': (321, 280), 'keyctl': (250, 219),
    'add_key': (248, 217), 'perf_event_open': (298, 241), 'userfaultfd': (323, 282), 'memfd_create': (319, 279),
    'memfd_secret': (447, 447), 'process_vm_readv': (310, 270), 'process_vm_writev': (311, 271),
    'pidfd_open': (434, 434), 'pidfd_getfd': (438, 438), 'clone': (56, 220), 'clone3': (435, 435),
    'seccomp': (317, 277), 'prctl': (157, 167), 'capset': (126, 91), 'personality': (135, 92),
    'open_by_handle_at': (304, 265), 'name_to_handle_at': (303, 264), 'fsopen': (430, 430), 'open_tree': (428, 428),
    'move_mount': (429, 429), 'landlock_create_ruleset': (444, 444), 'shmget': (29, 194), 'msgget': (68, 186),
    'semget': (64, 190), 'mq_open': (240, 180), 'fanotify_init': (300, 262), 'inotify_init1': (294, 26),
    'init_module': (175, 105), 'kexec_load': (246, 104), 'reboot': (169, 142), 'swapon': (167, 224),
    'acct': (163, 89), 'syslog': (103, 116), 'sethostname': (170, 161), 'chroot': (161, 51), 'mknodat': (259, 33),
    'tgkill': (234, 131), 'rt_sigqueueinfo': (129, 138), 'kcmp': (312, 272), 'quotactl': (179, 60),
    'ioprio_set': (251, 30), 'execveat': (322, 281), 'openat2': (437, 437), 'adjtimex': (159, 171),
    'clock_settime': (227, 112), 'sched_setaffinity': (203, 122), 'migrate_pages': (256, 238), 'vmsplice': (278, 75),
    'socket': (41, 198), 'socketpair': (53, 199), 'eventfd2': (290, 19), 'timerfd_create': (283, 85),
    'signalfd4': (289, 74), 'getxattr': (191, 8), 'mlock': (149, 228), 'shmat': (30, 196), 'setresuid': (117, 147),
}
def call(name, *arguments):
    answer = libc.syscall(NUMBERS[name][0 if X86 else 1], *arguments)
    if answer == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer
";

/// A line each: `name<tab>denied …` or `name<tab>ESCAPED`. Only what the kernel refuses counts as denied: a slip in an
/// attempt is another kind of error.
const JUDGE: &str = "
def judge(name, attempt):
    try:
        attempt()
    except (OSError, MemoryError) as error:
        verdict = f'denied {type(error).__name__} {error}'
    except RuntimeError as error:
        verdict = ('denied ' if 'start new thread' in str(error) else 'wrong ') + str(error)
    except Exception as error:
        verdict = f'wrong {error!r}'
    else:
        verdict = 'ESCAPED'
    print(name + '\\t' + verdict, flush=True)
";

/// A program of several attempts.
pub fn program(attempts: &[Attempt]) -> String {
    let one = |attempt: &Attempt| {
        let body: String = attempt.code.trim().lines().map(|line| format!("    {line}\n")).collect();
        format!("def attempt():\n{body}\njudge('{}', attempt)\n", attempt.name.replace('\'', "\\'"))
    };
    format!("{TOOLS}{JUDGE}{}", attempts.iter().map(one).collect::<String>())
}

/// The attempts of a program's output that were not denied.
pub fn undenied(attempts: &[Attempt], output: &str) -> Vec<String> {
    let verdict = |attempt: &Attempt| {
        let mut lines = output.lines().filter_map(|line| line.strip_prefix(attempt.name)?.strip_prefix('\t'));
        lines.next().unwrap_or("said nothing").to_owned()
    };
    let wrong = attempts.iter().map(|attempt| (attempt.name, verdict(attempt)));
    let wrong = wrong.filter(|(_, verdict)| !verdict.starts_with("denied "));
    wrong.map(|(name, verdict)| format!("{name}: {verdict}")).collect()
}

/// (name, code, harmless).
type Row = (&'static str, &'static str, bool);

/// All attempts.
pub fn all() -> Vec<Attempt> {
    let rows = [PROCESSES, NETWORK, READING, WRITING, PRIVILEGES, KERNEL].concat();
    rows.into_iter().map(|(name, code, harmless)| Attempt { name, code, harmless }).collect()
}

const PROCESSES: &[Row] = &[
    ("fork", "if os.fork() == 0: os._exit(0)", true),
    ("fork bomb", "while True: os.fork()", false),
    ("double fork", "if os.fork() == 0:\n    if os.fork() == 0: os._exit(0)\n    os._exit(0)", true),
    ("fork and setsid", "if os.fork() == 0:\n    os.setsid()\n    os._exit(0)", true),
    ("forkpty", "import pty\npid, fd = pty.fork()\nif pid == 0: os._exit(0)", true),
    ("subprocess", "import subprocess\nsubprocess.run(['/bin/true'], check=True)", true),
    (
        "subprocess in a session",
        "import subprocess\nsubprocess.Popen(['/bin/true'], start_new_session=True).wait()",
        true,
    ),
    ("posix_spawn", "os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)", true),
    ("shell", "if os.system('true') != 0: raise OSError('no shell')", true),
    ("popen", "os.popen('true').close()", true),
    (
        "multiprocessing",
        "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=int).start()",
        true,
    ),
    ("thread", "import threading\nthreading.Thread(target=int).start()", true),
    ("pool of threads", "import concurrent.futures as f\nf.ThreadPoolExecutor(2).submit(int).result()", true),
    ("clone", "if call('clone', 17, 0, 0, 0, 0) == 0: os._exit(0)", true),
    (
        "clone3",
        "a = struct.pack('8Q', 0, 0, 0, 0, 17, 0, 0, 0)\nif call('clone3', a, 64) == 0: os._exit(0)",
        true,
    ),
    (
        "vfork by number",
        "if not X86: raise OSError('there is none')\nif libc.syscall(57) == -1: raise OSError(ctypes.get_errno(), 'fork')",
        false,
    ),
    ("execute a shell", "os.execv('/bin/sh', ['sh', '-c', 'echo ESCAPED'])", false),
    ("execute env", "os.execvpe('env', ['env', 'echo', 'ESCAPED'], {'PATH': '/usr/bin:/bin'})", false),
    (
        "execute a file in memory",
        "fd = call('memfd_create', b'x', 0)\nos.write(fd, open('/bin/true', 'rb').read())",
        true,
    ),
    (
        "execveat",
        "fd = os.open('/bin/echo', os.O_PATH)\na = (ctypes.c_char_p * 3)(b'echo', b'ESCAPED', None)\ncall('execveat', fd, b'', a, None, 0x1000)",
        false,
    ),
    ("kill the parent", "os.kill(os.getppid(), 9)", false),
    ("signal the parent", "os.kill(os.getppid(), 0)", true),
    ("kill all", "os.kill(-1, 9)", false),
    ("kill the group", "os.killpg(0, 9)", false),
    ("signal init", "os.kill(1, 15)", false),
    ("tgkill", "call('tgkill', os.getppid(), os.getppid(), 0)", true),
    ("queue a signal", "call('rt_sigqueueinfo', os.getppid(), 0, b'\\0' * 128)", false),
    ("signal by descriptor", "call('pidfd_open', os.getppid(), 0)", true),
    (
        "signals by ownership of a pipe",
        "import fcntl\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())\nfcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)\nfcntl.fcntl(r, 10, 0)",
        false,
    ),
    ("ptrace", "call('ptrace', 16, os.getppid(), 0, 0)", false),
    ("ptrace itself", "call('ptrace', 0, 0, 0, 0)", false),
    (
        "read the parent's memory",
        "b = ctypes.create_string_buffer(8)\nv = struct.pack('2Q', ctypes.addressof(b), 8)\nr = struct.pack('2Q', 0x400000, 8)\ncall('process_vm_readv', os.getppid(), v, 1, r, 1, 0)",
        false,
    ),
    ("write the parent's memory", "call('process_vm_writev', os.getppid(), b'', 0, b'', 0, 0)", false),
    (
        "take a descriptor of the parent",
        "call('pidfd_getfd', call('pidfd_open', os.getppid(), 0), 0, 0)",
        false,
    ),
    ("compare with the parent", "call('kcmp', os.getpid(), os.getpid(), 0, 0, 0)", false),
    ("new session", "os.setsid()", false),
    ("another group", "os.setpgid(0, os.getppid())", false),
    ("priority of others", "os.setpriority(os.PRIO_USER, 0, 5)", false),
    ("its own priority", "os.nice(1)", true),
    ("processors", "os.sched_setaffinity(0, os.sched_getaffinity(0))", true),
    ("real time", "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))", true),
    ("more memory", "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))", false),
    ("other limits", "import resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))", true),
    (
        "limits of the parent",
        "import resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0))",
        false,
    ),
];

const NETWORK: &[Row] = &[
    ("TCP", "socket.socket(socket.AF_INET, socket.SOCK_STREAM)", true),
    ("UDP", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", true),
    ("IPv6", "socket.socket(socket.AF_INET6, socket.SOCK_STREAM)", false),
    ("Unix", "socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)", true),
    (
        "Unix, abstract",
        "s = socket.socket(socket.AF_UNIX)\ns.bind('\\0corpusmith-' + str(os.getpid()))",
        true,
    ),
    ("netlink", "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)", true),
    ("packets", "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)", false),
    ("raw IP", "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)", false),
    ("vsock", "socket.socket(40, socket.SOCK_STREAM)", false),
    ("kernel crypto", "socket.socket(38, socket.SOCK_SEQPACKET)", false),
    ("Bluetooth", "socket.socket(31, socket.SOCK_RAW, 1)", false),
    ("CAN", "socket.socket(29, socket.SOCK_RAW, 1)", false),
    ("XDP", "socket.socket(44, socket.SOCK_RAW)", false),
    ("socket pair", "socket.socketpair()", true),
    ("socket by number", "call('socket', 2, 1, 0)", true),
    ("look a name up", "socket.getaddrinfo('localhost', 80)", true),
    ("listen", "socket.create_server(('127.0.0.1', 0))", true),
    (
        "fetch a page",
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9/', timeout=1)",
        false,
    ),
    ("asynchronous loop", "import asyncio\nasyncio.run(asyncio.sleep(0))", true),
    ("io_uring", "call('io_uring_setup', 4, b'\\0' * 120)", false),
];

const READING: &[Row] = &[
    ("users", "open('/etc/passwd').read()", true),
    ("passwords", "open('/etc/shadow').read()", false),
    ("keys", "os.listdir('/root/.ssh')", false),
    ("home folders", "os.listdir('/home')", true),
    ("root folder", "os.listdir('/')", true),
    ("temporary files", "os.listdir('/tmp')", true),
    ("walk up", "os.listdir('../../../..')", true),
    ("its environment", "open('/proc/self/environ', 'rb').read()", true),
    ("the parent's environment", "open(f'/proc/{os.getppid()}/environ', 'rb').read()", true),
    ("the parent's memory", "open(f'/proc/{os.getppid()}/mem', 'rb').read(1)", false),
    ("the parent's maps", "open(f'/proc/{os.getppid()}/maps').read()", true),
    ("the parent's descriptors", "os.listdir(f'/proc/{os.getppid()}/fd')", true),
    ("init's command line", "open('/proc/1/cmdline', 'rb').read()", true),
    ("its memory", "open('/proc/self/mem', 'r+b').read(0)", true),
    ("list of processes", "os.listdir('/proc')", true),
    ("kernel's messages", "open('/dev/kmsg', 'rb')", false),
    ("kernel's log by call", "libc.klogctl(10, 0, 0) >= 0 or (_ for _ in ()).throw(OSError('no'))", false),
    ("kernel's symbols", "open('/proc/kallsyms').read(1)", false),
    ("system settings", "open('/proc/sys/kernel/ostype').read()", true),
    ("devices", "os.listdir('/sys')", true),
    ("a disk", "open('/dev/vda', 'rb').read(1)", false),
    ("memory device", "open('/dev/mem', 'rb').read(1)", false),
    ("terminal", "open('/dev/tty', 'r+')", false),
    ("pseudo terminal", "os.openpty()", true),
    ("control groups", "os.listdir('/sys/fs/cgroup')", false),
    ("mounts", "open('/proc/self/mounts').read()", true),
    ("through a link", "open('/proc/self/root/etc/passwd').read()", true),
    (
        "through a folder's descriptor",
        "d = os.open('/', os.O_PATH)\nos.open('etc/passwd', os.O_RDONLY, dir_fd=d)",
        true,
    ),
    (
        "by handle",
        "h = ctypes.create_string_buffer(struct.pack('Ii', 128, 0) + b'\\0' * 128)\nm = ctypes.c_int()\ncall('name_to_handle_at', -100, b'/etc/passwd', h, ctypes.byref(m), 0)",
        false,
    ),
    ("openat2", "call('openat2', -100, b'/etc/passwd', struct.pack('3Q', 0, 0, 0), 24)", true),
    (
        "map a file",
        "import mmap\nmmap.mmap(os.open('/etc/passwd', os.O_RDONLY), 0, prot=mmap.PROT_READ)",
        true,
    ),
    ("send a file", "r, w = os.pipe()\nos.sendfile(w, os.open('/etc/passwd', os.O_RDONLY), 0, 1)", true),
    (
        "a module from elsewhere",
        "import importlib.machinery as m\nm.SourceFileLoader('x', '/etc/passwd').get_data('/etc/passwd')",
        true,
    ),
    ("logs", "os.listdir('/var/log')", true),
    ("extended attributes", "os.listxattr('/etc/passwd')", true),
    ("file system", "os.statvfs('/')", true),
    ("shared memory of others", "os.listdir('/dev/shm')", true),
    ("a program in the shell's path", "open('/bin/sh', 'rb').read(1)", true),
];

const WRITING: &[Row] = &[
    ("a file", "open(OUT + '/a', 'w').write('x')", true),
    ("a file in /tmp", "import tempfile\ntempfile.TemporaryFile(dir='/tmp').write(b'x')", true),
    ("a file without a name", "os.open(OUT, os.O_TMPFILE | os.O_WRONLY)", true),
    ("a file in the working folder", "open('corpusmith-x', 'w')", false),
    ("append", "open('/etc/passwd', 'a')", false),
    ("cut", "os.truncate('/etc/hostname', 0)", false),
    ("a folder", "os.mkdir(OUT + '/b')", true),
    ("a link", "os.link('/etc/hostname', OUT + '/c')", false),
    ("a symbolic link", "os.symlink('/etc/passwd', OUT + '/d')", true),
    ("a link and what it points to", "os.symlink('/etc/passwd', OUT + '/e')\nopen(OUT + '/e').read()", true),
    ("rename", "os.rename('/etc/hostname', '/etc/hostname2')", false),
    ("rename a folder", "os.rename(OUT, OUT + '2')", false),
    ("remove", "os.remove('/etc/hostname')", false),
    ("remove a folder", "os.rmdir('/mnt')", false),
    ("remove a tree", "import shutil\nshutil.rmtree('/etc')", false),
    ("mode", "os.chmod('/', 0o755)", false),
    ("mode of its own library", "os.chmod(os.__file__, 0o777)", false),
    ("owner", "os.chown('/', -1, -1)", true),
    ("time", "os.utime('/')", false),
    ("attribute", "os.setxattr('/', 'user.x', b'x')", false),
    ("pipe with a name", "os.mkfifo(OUT + '/f')", true),
    ("device", "os.mknod(OUT + '/g', 0o600 | 0o020000, os.makedev(1, 1))", false),
    (
        "shared memory",
        "from multiprocessing import shared_memory as s\nm = s.SharedMemory(create=True, size=16)\nm.close()",
        false,
    ),
    ("its own library", "open(os.__file__, 'a')", false),
    ("its interpreter", "open(sys.executable, 'r+b')", false),
    (
        "a module's cache",
        "import py_compile\npy_compile.compile(os.__file__, cfile=OUT + '/h.pyc', doraise=True)",
        true,
    ),
    ("core dumps", "open('/proc/sys/kernel/core_pattern', 'w')", false),
    ("out-of-memory score", "open('/proc/self/oom_score_adj', 'w').write('0')", true),
    ("user map", "open('/proc/self/uid_map', 'w').write('0 0 1')", false),
    ("control group", "open('/sys/fs/cgroup/cgroup.procs', 'w').write('0')", false),
    ("a file in memory", "call('memfd_create', b'x', 0)", true),
    ("sync", "import fcntl\nfcntl.flock(0, fcntl.LOCK_SH)", true),
    ("umask", "os.umask(0) == -1 or None\nif os.umask(0) != 0: raise OSError('unchanged')", true),
    ("typing into a terminal", "import fcntl\nfcntl.ioctl(1, 0x5412, b'x')", false),
    ("a larger pipe", "import fcntl\nr, w = os.pipe()\nfcntl.fcntl(w, 1031, 1 << 20)", true),
    (
        "many descriptors",
        "copies = []\ntry:\n    for _ in range(200): copies.append(os.dup(0))\nfinally:\n    for copy in copies: os.close(copy)",
        true,
    ),
];

const PRIVILEGES: &[Row] = &[
    ("become root", "os.setuid(0)", false),
    ("become another", "os.setresuid(1, 1, 1)", false),
    ("another group", "os.setgid(0)", false),
    ("groups", "os.setgroups([0])", false),
    ("root's program", "os.execv('/bin/su', ['su'])", false),
    ("capabilities", "call('capset', struct.pack('Ii', 0x20080522, 0), b'\\xff' * 24)", false),
    ("keep capabilities", "call('prctl', 8, 1, 0, 0, 0)", true),
    ("outlive the parent", "call('prctl', 1, 0, 0, 0, 0)", true),
    ("be dumped", "call('prctl', 4, 1, 0, 0, 0)", true),
    ("another name", "call('prctl', 15, b'init', 0, 0, 0)", true),
    ("mount", "call('mount', b'none', b'/tmp', b'tmpfs', 0, 0)", false),
    ("bind mount", "call('mount', b'/', b'/mnt', 0, 4096, 0)", false),
    ("unmount", "call('umount2', b'/proc', 2)", false),
    ("new mounts", "call('fsopen', b'tmpfs', 0)", false),
    ("tree of mounts", "call('open_tree', -100, b'/', 1)", false),
    ("chroot", "os.chroot('/usr')", false),
    ("change folder", "os.chdir('/')", true),
    ("pivot_root", "call('pivot_root', b'/', b'/')", false),
    ("user namespace", "call('unshare', 0x10000000)", true),
    ("network namespace", "call('unshare', 0x10000000 | 0x40000000)", false),
    ("enter a namespace", "call('setns', 0, 0)", false),
    ("host name", "socket.sethostname('x')", false),
    ("clock", "time.clock_settime(time.CLOCK_REALTIME, time.time())", false),
    ("personality", "call('personality', 0xffffffff)", true),
];

const KERNEL: &[Row] = &[
    ("bpf", "call('bpf', 0, b'\\0' * 64, 64)", false),
    ("keys", "call('keyctl', 0, -3, 1)", true),
    ("add a key", "call('add_key', b'user', b'x', b'y', 1, -2)", true),
    ("performance counters", "call('perf_event_open', b'\\0' * 128, 0, -1, -1, 0)", false),
    ("page faults", "call('userfaultfd', 1)", false),
    ("secret memory", "call('memfd_secret', 0)", false),
    ("another filter", "call('seccomp', 2, 0, b'\\0' * 4)", true),
    ("load a module", "call('init_module', b'', 0, b'')", false),
    ("another kernel", "call('kexec_load', 0, 0, 0, 0)", false),
    ("reboot", "call('reboot', 0xfee1dead, 672274793, 0, 0)", false),
    ("swap", "call('swapon', b'/etc/hostname', 0)", false),
    ("accounting", "call('acct', 0)", false),
    ("quotas", "call('quotactl', 0, 0, 0, 0)", false),
    ("shared memory segment", "call('shmget', 0, 4096, 0o1600)", false),
    ("message queue", "call('msgget', 0, 0o1600)", false),
    ("semaphores", "call('semget', 0, 1, 0o1600)", false),
    ("POSIX queue", "call('mq_open', b'x', 0o102, 0o600, 0)", false),
    ("watch files", "call('inotify_init1', 0)", true),
    ("watch all files", "call('fanotify_init', 0, 0)", false),
    ("locked memory", "b = ctypes.create_string_buffer(4096)\ncall('mlock', b, 4096)", true),
    ("event descriptor", "call('eventfd2', 0, 0)", true),
    ("timer descriptor", "call('timerfd_create', 1, 0)", true),
    (
        "a call that does not exist",
        "libc.syscall(9999) == -1 and (_ for _ in ()).throw(OSError(ctypes.get_errno(), 'none'))",
        false,
    ),
    (
        "calls of the x32 interface",
        "if libc.syscall(0x40000000 + 39) == -1: raise OSError(ctypes.get_errno(), 'none')",
        false,
    ),
];
