/* Stands between a program and the system's calls that write files under FAULT_ROOT, and lets them fail.
 *
 *   FAULT_MODE   count | kill | enospc | eio | short | fsync | power
 *   FAULT_AT     the call from which on, counted from 1
 *   FAULT_EVER   set: all calls from there on fail; else the first one that the mode fits
 *   FAULT_LOG    a line is added for each call: its number, what it is, its path
 *   FAULT_TRASH  a folder of the same file system, outside FAULT_ROOT, for mode `power`
 *
 * `power` takes back, at its call, all that no fsync had put on disk: bytes behind the last sync of their
 * file; names (of files, folders, renames) that no sync of their folder followed. Then the process is killed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { OPEN, WRITE, SYNC, TRUNCATE, RENAME, UNLINK, MKDIR };
static const char *names[] = {"open", "write", "sync", "truncate", "rename", "unlink", "mkdir"};

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static const char *root, *mode, *trash;
static long at, calls;
static int ever, fired, log_fd = -1, ready;

#define REAL(name) static __typeof__(name) *real_##name
REAL(open); REAL(openat); REAL(write); REAL(pwrite); REAL(writev); REAL(fsync); REAL(fdatasync);
REAL(ftruncate); REAL(rename); REAL(unlink); REAL(unlinkat); REAL(mkdir); REAL(link);

static void start(void) {
    if (ready) return;
    ready = 1;
#define FIND(name) real_##name = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
    FIND(open); FIND(openat); FIND(write); FIND(pwrite); FIND(writev); FIND(fsync); FIND(fdatasync);
    FIND(ftruncate); FIND(rename); FIND(unlink); FIND(unlinkat); FIND(mkdir); FIND(link);
    root = getenv("FAULT_ROOT");
    mode = getenv("FAULT_MODE");
    trash = getenv("FAULT_TRASH");
    ever = getenv("FAULT_EVER") != NULL;
    at = getenv("FAULT_AT") ? atol(getenv("FAULT_AT")) : LONG_MAX;
    if (!mode) mode = "count";
    const char *log = getenv("FAULT_LOG");
    if (log) log_fd = real_open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

/* ── Where a call goes ─────────────────────────────────────────────────────────────────────────────────── */

static int inside(const char *path) {
    size_t n = root ? strlen(root) : 0;
    return n && strncmp(path, root, n) == 0 && (path[n] == '/' || path[n] == 0);
}

static int path_of_fd(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, PATH_MAX - 1);
    if (n <= 0) return 0;
    out[n] = 0;
    return !strstr(out, " (deleted)") && inside(out);
}

static int path_at(int dir, const char *path, char *out) {
    if (path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
    } else {
        char base[PATH_MAX];
        if (dir == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return 0;
        } else {
            char link[64];
            snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
            ssize_t n = readlink(link, base, PATH_MAX - 1);
            if (n <= 0) return 0;
            base[n] = 0;
        }
        if (snprintf(out, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return 0;
    }
    return inside(out);
}

/* ── What is not on disk yet ───────────────────────────────────────────────────────────────────────────── */

struct file { char *path; off_t synced; int dirty, unnamed; };
struct step { char *from, *to, *backup; };  /* a rename, or a folder that was made: no `from` */
static struct file files[65536];
static struct step steps[65536];
static int n_files, n_steps, n_backups;

static struct file *file_of(const char *path) {
    for (int i = 0; i < n_files; i++)
        if (strcmp(files[i].path, path) == 0) return &files[i];
    return NULL;
}

static struct file *known(const char *path, off_t synced) {
    struct file *file = file_of(path);
    if (file || n_files == 65536) return file;
    files[n_files] = (struct file){strdup(path), synced, 0, 0};
    return &files[n_files++];
}

static void forget(const char *path) {
    struct file *file = file_of(path);
    if (file) *file = files[--n_files];
}

static int parent_is(const char *path, const char *folder) {
    const char *slash = strrchr(path, '/');
    size_t n = strlen(folder);
    return slash && (size_t)(slash - path) == n && strncmp(path, folder, n) == 0;
}

static void moved(char **path, const char *from, const char *to) {
    size_t n = strlen(from);
    if (!*path || strncmp(*path, from, n) || ((*path)[n] && (*path)[n] != '/')) return;
    char *other;
    if (asprintf(&other, "%s%s", to, *path + n) > 0) *path = other;
}

static void all_moved(const char *from, const char *to, int but) {
    for (int i = 0; i < n_files; i++) moved(&files[i].path, from, to);
    for (int i = 0; i < but; i++) {
        moved(&steps[i].from, from, to);
        moved(&steps[i].to, from, to);
    }
}

static void folder_synced(const char *folder) {
    int kept = 0;
    for (int i = 0; i < n_files; i++)
        if (parent_is(files[i].path, folder)) files[i].unnamed = 0;
    for (int i = 0; i < n_steps; i++)
        if (!parent_is(steps[i].to, folder)) steps[kept++] = steps[i];
    n_steps = kept;
}

static void power_cut(void) {
    char away[PATH_MAX];
    for (int i = n_steps - 1; i >= 0; i--) {
        struct step step = steps[i];
        if (!step.from) {
            snprintf(away, sizeof away, "%s/folder-%d", trash, i);
            real_rename(step.to, away);
            all_moved(step.to, away, i);
            continue;
        }
        real_rename(step.to, step.from);
        all_moved(step.to, step.from, i);
        if (step.backup) real_rename(step.backup, step.to);
    }
    for (int i = 0; i < n_files; i++) {
        if (!inside(files[i].path)) continue;
        if (files[i].unnamed) real_unlink(files[i].path);
        else if (files[i].dirty && truncate(files[i].path, files[i].synced)) continue;
    }
}

/* ── The calls ─────────────────────────────────────────────────────────────────────────────────────────── */

static int fits(enum kind kind) {
    if (!strcmp(mode, "short")) return kind == WRITE;
    if (!strcmp(mode, "fsync")) return kind == SYNC;
    if (!strcmp(mode, "enospc")) return kind == WRITE || kind == OPEN || kind == MKDIR || kind == RENAME;
    return 1;
}

/* Counts a call; returns whether it is to fail. */
static int call(enum kind kind, const char *path) {
    char line[PATH_MAX + 64];
    calls++;
    int fails = calls >= at && fits(kind) && (ever || !fired) && strcmp(mode, "count");
    int n = snprintf(line, sizeof line, "%s%ld %s %s\n", fails ? "! " : "", calls, names[kind], path);
    if (log_fd >= 0 && real_write(log_fd, line, n) < 0) log_fd = -1;
    if (!fails) return 0;
    fired = 1;
    if (!strcmp(mode, "power")) power_cut();
    if (!strcmp(mode, "power") || !strcmp(mode, "kill")) {
        kill(getpid(), SIGKILL);
        pause();
    }
    errno = !strcmp(mode, "enospc") ? ENOSPC : EIO;
    return 1;
}

#define LOCKED(result) do { int e = errno; pthread_mutex_unlock(&lock); errno = e; return result; } while (0)

static int any_open(int dir, const char *path, int flags, mode_t rights) {
    char full[PATH_MAX];
    start();
    int writes = (flags & O_ACCMODE) != O_RDONLY && (flags & O_TMPFILE) != O_TMPFILE;
    if (!writes || !path_at(dir, path, full)) return real_openat(dir, path, flags, rights);
    pthread_mutex_lock(&lock);
    int fresh = access(full, F_OK) != 0;
    if ((flags & (O_CREAT | O_TRUNC)) && (fresh || (flags & O_TRUNC)) && call(OPEN, full)) LOCKED(-1);
    int fd = real_openat(dir, path, flags, rights);
    struct stat found;
    if (fd >= 0 && fstat(fd, &found) == 0 && S_ISREG(found.st_mode)) {
        struct file *file = known(full, found.st_size);
        if (file && fresh) file->unnamed = 1;
        if (file && (flags & O_TRUNC)) file->synced = 0, file->dirty = 1;
    }
    LOCKED(fd);
}

#define RIGHTS mode_t rights = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list list; va_start(list, flags); rights = va_arg(list, mode_t); va_end(list); }
int open(const char *path, int flags, ...) { RIGHTS return any_open(AT_FDCWD, path, flags, rights); }
int open64(const char *path, int flags, ...) { RIGHTS return any_open(AT_FDCWD, path, flags | O_LARGEFILE, rights); }
int openat(int dir, const char *path, int flags, ...) { RIGHTS return any_open(dir, path, flags, rights); }
int openat64(int dir, const char *path, int flags, ...) { RIGHTS return any_open(dir, path, flags | O_LARGEFILE, rights); }

/* Marks a file as written to; returns how many of the bytes go through, or -1. */
static ssize_t before_write(int fd, const char *path, size_t bytes) {
    struct stat found;
    struct file *file = fstat(fd, &found) == 0 ? known(path, found.st_size) : NULL;
    if (file) file->dirty = 1;
    if (!call(WRITE, path)) return bytes;
    return !strcmp(mode, "short") ? (ssize_t)(bytes + 1) / 2 : -1;
}

ssize_t write(int fd, const void *from, size_t bytes) {
    char path[PATH_MAX];
    start();
    if (fd == log_fd || !bytes || !path_of_fd(fd, path)) return real_write(fd, from, bytes);
    pthread_mutex_lock(&lock);
    ssize_t n = before_write(fd, path, bytes);
    if (n >= 0) n = real_write(fd, from, n);
    LOCKED(n);
}

ssize_t pwrite(int fd, const void *from, size_t bytes, off_t offset) {
    char path[PATH_MAX];
    start();
    if (!bytes || !path_of_fd(fd, path)) return real_pwrite(fd, from, bytes, offset);
    pthread_mutex_lock(&lock);
    ssize_t n = before_write(fd, path, bytes);
    if (n >= 0) n = real_pwrite(fd, from, n, offset);
    LOCKED(n);
}
ssize_t pwrite64(int fd, const void *from, size_t bytes, off64_t offset) { return pwrite(fd, from, bytes, offset); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    char path[PATH_MAX];
    start();
    if (count < 1 || !path_of_fd(fd, path)) return real_writev(fd, parts, count);
    pthread_mutex_lock(&lock);
    ssize_t n = before_write(fd, path, parts[0].iov_len);
    if (n >= 0) n = (size_t)n < parts[0].iov_len ? real_write(fd, parts[0].iov_base, n) : real_writev(fd, parts, count);
    LOCKED(n);
}

static int any_sync(int fd, int (*real)(int)) {
    char path[PATH_MAX];
    if (!path_of_fd(fd, path)) return real(fd);
    pthread_mutex_lock(&lock);
    if (call(SYNC, path)) LOCKED(-1);
    int result = real(fd);
    struct stat found;
    if (result == 0 && fstat(fd, &found) == 0) {
        struct file *file = file_of(path);
        if (S_ISDIR(found.st_mode)) folder_synced(path);
        else if (file) file->synced = found.st_size, file->dirty = 0;
    }
    LOCKED(result);
}
int fsync(int fd) { start(); return any_sync(fd, real_fsync); }
int fdatasync(int fd) { start(); return any_sync(fd, real_fdatasync); }

int ftruncate(int fd, off_t bytes) {
    char path[PATH_MAX];
    start();
    if (!path_of_fd(fd, path)) return real_ftruncate(fd, bytes);
    pthread_mutex_lock(&lock);
    if (call(TRUNCATE, path)) LOCKED(-1);
    struct file *file = file_of(path);
    if (file && file->synced > bytes) file->synced = bytes;
    int result = real_ftruncate(fd, bytes);
    LOCKED(result);
}
int ftruncate64(int fd, off64_t bytes) { return ftruncate(fd, bytes); }

int rename(const char *from, const char *to) {
    char full_from[PATH_MAX], full_to[PATH_MAX];
    start();
    path_at(AT_FDCWD, from, full_from);
    if (!path_at(AT_FDCWD, to, full_to)) return real_rename(from, to);
    pthread_mutex_lock(&lock);
    if (call(RENAME, full_to)) LOCKED(-1);
    char *backup = NULL;
    if (trash && access(full_to, F_OK) == 0 && asprintf(&backup, "%s/backup-%d", trash, n_backups++) > 0
        && real_link(full_to, backup) != 0)
        backup = NULL;
    int result = real_rename(from, to);
    if (result == 0 && n_steps < 65536) {
        forget(full_to);
        all_moved(full_from, full_to, n_steps);
        steps[n_steps++] = (struct step){strdup(full_from), strdup(full_to), backup};
    }
    LOCKED(result);
}

static int any_unlink(int dir, const char *path, int flags) {
    char full[PATH_MAX];
    start();
    if (!path_at(dir, path, full)) return real_unlinkat(dir, path, flags);
    pthread_mutex_lock(&lock);
    if (access(full, F_OK) == 0 && call(UNLINK, full)) LOCKED(-1);
    int result = real_unlinkat(dir, path, flags);
    if (result == 0) forget(full);
    LOCKED(result);
}
int unlink(const char *path) { return any_unlink(AT_FDCWD, path, 0); }
int unlinkat(int dir, const char *path, int flags) { return any_unlink(dir, path, flags); }
int rmdir(const char *path) { return any_unlink(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdir(const char *path, mode_t rights) {
    char full[PATH_MAX];
    start();
    if (!path_at(AT_FDCWD, path, full) || access(full, F_OK) == 0) return real_mkdir(path, rights);
    pthread_mutex_lock(&lock);
    if (call(MKDIR, full)) LOCKED(-1);
    int result = real_mkdir(path, rights);
    if (result == 0 && n_steps < 65536) steps[n_steps++] = (struct step){NULL, strdup(full), NULL};
    LOCKED(result);
}
