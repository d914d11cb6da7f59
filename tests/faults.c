/* A library to be preloaded that has one system call fail: FAULT=CALL:N:ERROR[:WHERE].
 *
 * The Nth call and all later ones of CALL (pwrite, pread, fdatasync, fsync, rename, ftruncate, flock, open, mmap,
 * pthread_create) fail with ERROR (EIO, ENOSPC, ...); N counts those whose path contains WHERE, or for pthread_create
 * those that WHERE=core makes: the ones that come from learnalign's extension. With FAULT_ONCE set only the Nth fails. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

static const struct {
    const char *name;
    int number;
} errors[] = {{"EIO", EIO},       {"ENOSPC", ENOSPC}, {"EMFILE", EMFILE}, {"ENOLCK", ENOLCK},
              {"EAGAIN", EAGAIN}, {"EINTR", EINTR},   {"ENOMEM", ENOMEM}, {"EOPNOTSUPP", EOPNOTSUPP}};

static int seen;

/* The error that this call shall fail with, or 0. */
static int fault(const char *call, const char *where) {
    const char *asked = getenv("FAULT");
    char name[32], error[16], part[256] = "";
    int nth, number = 0;
    if (asked == NULL || sscanf(asked, "%31[^:]:%d:%15[^:]:%255s", name, &nth, error, part) < 3) return 0;
    if (strcmp(name, call) != 0 || (*part && (where == NULL || strstr(where, part) == NULL))) return 0;
    for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); ++i)
        if (strcmp(errors[i].name, error) == 0) number = errors[i].number;
    const int count = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    return count == nth || (count > nth && getenv("FAULT_ONCE") == NULL) ? number : 0;
}

static const char *path_of(int descriptor, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", descriptor);
    const ssize_t length = readlink(link, path, size - 1);
    path[length < 0 ? 0 : length] = '\0';
    return path;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define OF_FILE(call, descriptor)                                              \
    do {                                                                       \
        char path[4096];                                                       \
        const int error = fault(call, path_of(descriptor, path, sizeof(path))); \
        if (error) {                                                           \
            errno = error;                                                     \
            return -1;                                                         \
        }                                                                      \
    } while (0)

ssize_t pwrite64(int descriptor, const void *bytes, size_t size, off64_t offset) {
    OF_FILE("pwrite", descriptor);
    return NEXT(pwrite64)(descriptor, bytes, size, offset);
}
ssize_t pwrite(int descriptor, const void *bytes, size_t size, off_t offset) {
    return pwrite64(descriptor, bytes, size, offset);
}
ssize_t pread64(int descriptor, void *bytes, size_t size, off64_t offset) {
    OF_FILE("pread", descriptor);
    return NEXT(pread64)(descriptor, bytes, size, offset);
}
ssize_t pread(int descriptor, void *bytes, size_t size, off_t offset) {
    return pread64(descriptor, bytes, size, offset);
}
int fdatasync(int descriptor) {
    OF_FILE("fdatasync", descriptor);
    return NEXT(fdatasync)(descriptor);
}
int fsync(int descriptor) {
    OF_FILE("fsync", descriptor);
    return NEXT(fsync)(descriptor);
}
int ftruncate64(int descriptor, off64_t size) {
    OF_FILE("ftruncate", descriptor);
    return NEXT(ftruncate64)(descriptor, size);
}
int ftruncate(int descriptor, off_t size) { return ftruncate64(descriptor, size); }
int flock(int descriptor, int operation) {
    OF_FILE("flock", descriptor);
    return NEXT(flock)(descriptor, operation);
}
int rename(const char *from, const char *to) {
    const int error = fault("rename", from);
    if (error) {
        errno = error;
        return -1;
    }
    return NEXT(rename)(from, to);
}
static int opened(const char *path, int flags, mode_t mode) {
    const int error = fault("open", path);
    if (error) {
        errno = error;
        return -1;
    }
    return NEXT(open64)(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    const mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return opened(path, flags, mode);
}
int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    const mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return opened(path, flags, mode);
}
void *mmap64(void *address, size_t size, int protection, int flags, int descriptor, off64_t offset) {
    char path[4096];
    const int error = descriptor < 0 ? 0 : fault("mmap", path_of(descriptor, path, sizeof(path)));
    if (error) {
        errno = error;
        return MAP_FAILED;
    }
    return NEXT(mmap64)(address, size, protection, flags, descriptor, offset);
}
void *mmap(void *address, size_t size, int protection, int flags, int descriptor, off_t offset) {
    return mmap64(address, size, protection, flags, descriptor, offset);
}
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument) {
    /* C++ threads start in libstdc++; Python's and BLAS's do not (whose path may go through numpy/_core). */
    Dl_info from;
    const char *library = dladdr(__builtin_return_address(0), &from) ? from.dli_fname : NULL;
    const int ours = library != NULL && strstr(library, "libstdc++") != NULL;
    const int error = fault("pthread_create", ours ? "core" : "elsewhere");
    return error ? error : NEXT(pthread_create)(thread, attributes, start, argument);
}
