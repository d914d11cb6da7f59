#include "store/files.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <vector>

#include "common/error.hpp"

namespace learnalign {
namespace {

constexpr size_t largest_transfer = size_t{1} << 30;  // Linux moves at most 2 GiB a call

[[noreturn]] void fail(const std::string& action, const std::string& path, int error) {
    std::string line = "cannot " + action + " " + path + ": " + std::strerror(error);
    if (error == ENOSPC || error == EDQUOT || error == EFBIG) {
        line += "; committed rows are safe: make room and run the same command again to go on";
    } else if (error == EIO) {
        line += "; committed rows are safe: see to the disk and run the same command again to go on";
    } else if (error == EMFILE || error == ENFILE) {
        line += ": close files or raise the limit (ulimit -n), and run the same command again";
    } else if (error == ENOLCK || error == EOPNOTSUPP) {
        line += ": this file system has no locks, which keep two writers apart; use another one";
    }
    throw Error(ErrorKind::store, line);
}

// A lock belongs to the open file, and a child of fork() has descriptors of the same: it would keep the lock
// when its parent is long done. So it closes them first of all.
class LockedDescriptors {
  public:
    static LockedDescriptors& all() {
        static auto* const one = new LockedDescriptors;  // never destroyed: forks may come until the very end
        return *one;
    }
    void add(int descriptor) {
        const std::lock_guard lock(mutex_);
        open_.push_back(descriptor);
    }
    void remove(int descriptor) {
        const std::lock_guard lock(mutex_);
        std::erase(open_, descriptor);
    }

  private:
    LockedDescriptors() {
        ::pthread_atfork([] { all().mutex_.lock(); }, [] { all().mutex_.unlock(); },
                         [] {
                             for (const int descriptor : all().open_) ::close(descriptor);
                             all().open_.clear();
                             all().mutex_.unlock();
                         });
    }

    std::mutex mutex_;
    std::vector<int> open_;
};

}  // namespace

File& File::operator=(File&& other) noexcept {
    close();
    descriptor_ = std::exchange(other.descriptor_, -1);
    locked_ = std::exchange(other.locked_, false);
    path_ = std::move(other.path_);
    return *this;
}

File File::open(const std::string& path, int flags) {
    const int descriptor = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
    if (descriptor < 0) fail("open", path, errno);
    return File(descriptor, path);
}

File File::duplicate(int descriptor, const std::string& path) {
    const int copy = ::fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) fail("open", path, errno);
    return File(copy, path);
}

uint64_t File::size() const {
    struct stat facts{};
    if (::fstat(descriptor_, &facts) != 0) fail("read", path_, errno);
    return static_cast<uint64_t>(facts.st_size);
}

void File::read_at(uint64_t offset, void* bytes, size_t size) const {
    if (read_some(offset, bytes, size) < size) {
        throw Error(ErrorKind::store, "cannot read " + path_ + ": it became shorter meanwhile");
    }
}

size_t File::read_some(uint64_t offset, void* bytes, size_t size) const {
    auto* p = static_cast<uint8_t*>(bytes);
    size_t read = 0;
    while (read < size) {
        const ssize_t got = ::pread(descriptor_, p + read, std::min(size - read, largest_transfer),
                                    static_cast<off_t>(offset + read));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) fail("read", path_, errno);
        if (got == 0) break;
        read += static_cast<size_t>(got);
    }
    return read;
}

void File::write_at(uint64_t offset, const void* bytes, size_t size) const {
    const auto* p = static_cast<const uint8_t*>(bytes);
    while (size > 0) {
        const ssize_t put =
            ::pwrite(descriptor_, p, std::min(size, largest_transfer), static_cast<off_t>(offset));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) fail("write", path_, errno);
        if (put == 0) fail("write", path_, ENOSPC);
        p += put;
        size -= static_cast<size_t>(put);
        offset += static_cast<uint64_t>(put);
    }
}

void File::truncate(uint64_t size) const {
    if (::ftruncate(descriptor_, static_cast<off_t>(size)) != 0) fail("shorten", path_, errno);
}

void File::lock() {
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) fail("lock", path_, errno);
    take_lock();
}

void File::take_lock() {
    locked_ = true;
    LockedDescriptors::all().add(descriptor_);
}

void File::sync() const {
#if defined(__APPLE__)
    const int result = ::fcntl(descriptor_, F_FULLFSYNC);
#else
    const int result = ::fdatasync(descriptor_);
#endif
    if (result != 0) fail("write", path_, errno);
}

void File::close() noexcept {
    if (locked_) {
        LockedDescriptors::all().remove(descriptor_);
        ::flock(descriptor_, LOCK_UN);
    }
    if (descriptor_ >= 0) ::close(descriptor_);
    descriptor_ = -1;
    locked_ = false;
}

bool file_exists(const std::string& path) {
    return ::access(path.c_str(), F_OK) == 0;
}

void rename_file(const std::string& from, const std::string& to) {
    if (std::rename(from.c_str(), to.c_str()) != 0) fail("rename", from, errno);
}

void remove_file(const std::string& path) {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) fail("remove", path, errno);
}

void sync_directory(const std::string& directory) {
    const int descriptor = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) fail("open", directory, errno);
    const int result = ::fsync(descriptor);
    const int error = errno;
    ::close(descriptor);
    // Some network and FUSE file systems cannot flush a directory: renames there are as durable as they get.
    if (result != 0 && error != EINVAL) fail("write", directory, error);
}

}  // namespace learnalign
