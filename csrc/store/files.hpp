// One idea: POSIX files whose failures become one clear line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace learnalign {

class File {
  public:
    File() = default;
    File(int descriptor, std::string path) : descriptor_(descriptor), path_(std::move(path)) {}
    File(File&& other) noexcept
        : descriptor_(std::exchange(other.descriptor_, -1)),
          locked_(std::exchange(other.locked_, false)),
          path_(std::move(other.path_)) {}
    File& operator=(File&& other) noexcept;
    ~File() { close(); }

    static File open(const std::string& path, int flags);
    // Another descriptor of the same open file.
    static File duplicate(int descriptor, const std::string& path);

    bool is_open() const { return descriptor_ >= 0; }
    const std::string& path() const { return path_; }
    uint64_t size() const;
    void read_at(uint64_t offset, void* bytes, size_t size) const;      // all of it, or Error(store)
    size_t read_some(uint64_t offset, void* bytes, size_t size) const;  // less where the file ends before
    void write_at(uint64_t offset, const void* bytes, size_t size) const;
    void truncate(uint64_t size) const;
    // Exclusively, at once, or Error(store). The lock ends when the file is closed, whatever children were
    // forked meanwhile: their copies of the descriptor are closed as they are born.
    void lock();
    void take_lock();   // of the same open file, which another descriptor has locked
    void sync() const;  // fdatasync: the bytes and the length
    void close() noexcept;
    void moved_to(const std::string& path) { path_ = path; }

  private:
    int descriptor_ = -1;
    bool locked_ = false;
    std::string path_;
};

bool file_exists(const std::string& path);
void rename_file(const std::string& from, const std::string& to);
void remove_file(const std::string& path);  // where there is one
void sync_directory(const std::string& directory);

}  // namespace learnalign
