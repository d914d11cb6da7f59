// The core without Python, for builds with sanitizers (`make sanitize`): every thread, every SIMD path, every
// recovery. Laws only, in few words; the tests in tests/ say more and compare with independent references.
//
//   core_test DIRECTORY        an empty one, on a real disk
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/error.hpp"
#include "fold/fold.hpp"
#include "score/pairs.hpp"
#include "score/score.hpp"
#include "select/select.hpp"
#include "store/store.hpp"

using namespace learnalign;

namespace {

const Poll no_poll = [] {};

void require(bool holds, const char* law) {
    if (holds) return;
    std::fprintf(stderr, "core_test: does not hold: %s\n", law);
    std::exit(1);
}

std::vector<float> random_floats(size_t count, uint32_t seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float& value : values) value = normal(engine);
    return values;
}

// --- store

constexpr uint64_t dimension = 67, rows = 5;

std::string index_path(const std::string& directory) {
    return directory + "/shard-00000.index";
}

StoreWriter open_writer(const std::string& directory, const ShardShape& shape, Verify verify) {
    const File index = File::open(index_path(directory), O_RDWR | O_CREAT);
    const int descriptor = ::open(index.path().c_str(), O_RDWR);
    struct Closed {
        int descriptor;
        ~Closed() { ::close(descriptor); }
    } closed{descriptor};
    return StoreWriter(directory, descriptor, shape, 2 * rows * shape.row_bytes(), verify, no_poll);
}

void append(StoreWriter& writer, int block) {
    std::vector<std::string> ids;
    for (uint64_t r = 0; r < rows; ++r) ids.push_back(std::to_string(block) + "/" + std::to_string(r));
    const std::vector<double> rates(rows, 0.25);
    writer.append(ids, rates.data(), random_floats(rows * dimension, static_cast<uint32_t>(block)).data(),
                  no_poll);
}

std::string content(const std::string& path) {
    const File file = File::open(path, O_RDONLY);
    std::string bytes(file.size(), '\0');
    file.read_at(0, bytes.data(), bytes.size());
    return bytes;
}

void flip(const std::string& path, uint64_t offset) {
    const File file = File::open(path, O_RDWR);
    char byte;
    file.read_at(offset, &byte, 1);
    byte = static_cast<char>(byte ^ 4);
    file.write_at(offset, &byte, 1);
}

// Four threads write while a fifth asks how far they are.
void test_threads_append(const std::string& directory, const ShardShape& shape) {
    StoreWriter writer = open_writer(directory, shape, Verify::recent);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
        threads.emplace_back([&writer, t] {
            for (int block = t; block < 40; block += 4) append(writer, block);
        });
    }
    threads.emplace_back([&writer] {
        while (writer.committed_rows() < 100) std::this_thread::yield();
        writer.flush(no_poll);
    });
    for (std::thread& thread : threads) thread.join();
    writer.close(no_poll);
    writer.stop();
    const ShardIndex index = read_index(File::open(index_path(directory), O_RDONLY), shape);
    require(index.closed && index.rows() == 40 * rows, "every appended row is committed");
}

// Damage becomes a hole, and the same block fills it.
void test_damage_is_set_aside(const std::string& directory, const ShardShape& shape) {
    const std::string data = directory + "/shard-00000.npy";
    {
        StoreWriter writer = open_writer(directory, shape, Verify::recent);
        for (int block = 0; block < 20; ++block) append(writer, block);
        writer.close(no_poll);
    }
    const std::string sum = directory + "/shard-00000.sum";
    const std::string whole_data = content(data), whole_index = content(index_path(directory));
    const std::string whole_sum = content(sum);
    const ShardIndex index = read_index(File::open(index_path(directory), O_RDONLY), shape);
    flip(data, data_header_bytes + 7 * rows * shape.row_bytes());
    flip(index_path(directory), index.blocks[3].record_begin + 40);
    {
        StoreWriter writer = open_writer(directory, shape, Verify::everything);
        require(writer.committed_rows() == 18 * rows, "two damaged blocks are excluded");
        append(writer, 3);
        append(writer, 7);
        writer.close(no_poll);
    }
    require(content(data) == whole_data && content(index_path(directory)) == whole_index &&
                content(sum) == whole_sum,
            "a repaired store ends with the bytes of an undamaged one");
}

// A child of a fork while both threads of the writer are at work: it is refused and waits for nothing, its
// copy of the lock ends with its birth, and the parent goes on. (The thread sanitizer allows no such forks.)
void test_fork(const std::string& directory, const ShardShape& shape) {
#if !defined(__SANITIZE_THREAD__)
    StoreWriter writer = open_writer(directory, shape, Verify::recent);
    for (int block = 0; block < 10; ++block) {
        append(writer, block);
        const pid_t child = ::fork();
        if (child == 0) {
            try {
                append(writer, 100 + block);
            } catch (const Error&) {
                writer.stop();
                ::_exit(writer.is_ours() ? 1 : 0);
            }
            ::_exit(2);
        }
        int status = 0;
        require(::waitpid(child, &status, 0) == child && status == 0, "a child is refused");
    }
    const pid_t child = ::fork();
    if (child == 0) {
        ::pause();
        ::_exit(0);
    }
    writer.close(no_poll);
    File::open(index_path(directory), O_RDWR).lock();
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    const ShardIndex index = read_index(File::open(index_path(directory), O_RDONLY), shape);
    require(index.closed && index.rows() == 10 * rows, "forks change nothing for the parent");
#else
    (void)directory;
    (void)shape;
#endif
}

void test_store(const std::string& directory) {
    int number = 0;
    for (const Dtype dtype : {Dtype::float16, Dtype::int8, Dtype::float32}) {
        const ShardShape shape{0, dimension, dtype, 7};
        for (const auto test : {test_threads_append, test_damage_is_set_aside, test_fork}) {
            const std::string folder = directory + "/" + std::to_string(number++);
            require(::mkdir(folder.c_str(), 0777) == 0, "an empty directory is given");
            test(folder, shape);
        }
    }
}

// --- scorer, ranking, greedy, fold

// What `run` gives in a process that takes subnormal numbers for zeros.
template <class Run>
auto flushing(Run run) {
#if defined(__x86_64__)
    constexpr unsigned flush = 0x8040;
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | flush);
    const auto result = run();
    require((_mm_getcsr() & flush) == flush, "the process keeps its setting");
    _mm_setcsr(before);
    return result;
#else
    return run();
#endif
}

struct Scored {
    std::vector<double> score, alignment;

    bool operator==(const Scored&) const = default;
};

Scored score_with(const RowSource& source, const std::vector<double>& learnability, int threads) {
    const size_t count = learnability.size();
    Scored scored{std::vector<double>(count), std::vector<double>(count)};
    score_rows(source, learnability.data(), nullptr, static_cast<int64_t>(count), ZeroRows::refused, threads,
               no_poll, scored.score.data(), scored.alignment.data());
    return scored;
}

template <class T>
void test_score(Dtype dtype) {
    constexpr int64_t count = 1500, d = 333;
    const std::vector<float> values = random_floats(count * d, 3);
    std::vector<T> phi(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
        if constexpr (std::is_same_v<T, Half>) {
            phi[i] = float_to_half(values[i]);
        } else {
            phi[i] = static_cast<T>(dtype == Dtype::int8 ? 20 * values[i] : values[i]);
        }
    }
    std::vector<double> learnability(count);
    for (int64_t i = 0; i < count; ++i) learnability[i] = static_cast<double>(i % 5) / 16;
    const RowSource one{{{phi.data(), count}}, dtype, d};
    const RowSource two{{{phi.data(), 700}, {phi.data() + 700 * d, count - 700}}, dtype, d};
    const Scored expected = score_with(one, learnability, 1);
    require(score_with(one, learnability, 4) == expected, "scores do not depend on the number of threads");
    require(score_with(two, learnability, 3) == expected, "scores do not depend on the shards");
    ::setenv("LEARNALIGN_SIMD", "portable", 1);
    require(score_with(two, learnability, 2) == expected, "scores do not depend on the SIMD path");
    ::unsetenv("LEARNALIGN_SIMD");
    require(flushing([&] { return score_with(two, learnability, 2); }) == expected,
            "scores do not depend on what the process flushes to zero");
    std::vector<int64_t> places(60);
    std::iota(places.begin(), places.end(), 690);
    const auto similar = [&](int threads) {
        const Pairs pairs(two, places, std::vector<double>(60, 0.25), threads, no_poll);
        std::vector<int64_t> others;
        for (int64_t i = 0; i < 60 * 60; ++i) others.push_back(i % 60);
        std::vector<int64_t> queries(60);
        std::iota(queries.begin(), queries.end(), 0);
        std::vector<float> found(60 * 60);
        pairs.similarities(queries.data(), 60, others.data(), 60, threads, no_poll, found.data());
        return found;
    };
    const std::vector<float> found = similar(1);
    require(similar(4) == found, "similarities do not depend on the number of threads");
    require(flushing([&] { return similar(4); }) == found, "nor on what the process flushes to zero");
    for (int64_t i = 0; i < 60; ++i) {
        for (int64_t j = 0; j < i; ++j)
            require(found[i * 60 + j] == found[j * 60 + i], "similarities are symmetric");
    }
    const std::vector<int64_t> best = top(expected.score.data(), learnability.data(), count, count);
    require(best.size() == count, "every row is ranked");
}

// A poll that throws stops every thread.
void test_interrupt() {
    const std::vector<double> learnability(20000, 0.25);
    std::vector<double> score(20000), alignment(20000);
    std::vector<float> long_rows(size_t{1} << 26, 1.0f);
    const RowSource source{{{long_rows.data(), 20000}}, Dtype::float32, (int64_t{1} << 26) / 20000};
    try {
        score_rows(
            source, learnability.data(), nullptr, 20000, ZeroRows::refused, 2,
            [] { throw Error(ErrorKind::array, "interrupted"); }, score.data(), alignment.data());
    } catch (const Error& error) {
        require(std::string(error.what()) == "interrupted", "the interruption is what surfaces");
    }
}

void test_greedy() {
    constexpr int64_t candidates = 300, neighbors = 12;
    std::mt19937 engine(9);
    std::vector<int64_t> indptr(candidates + 1), indices;
    std::vector<float> weights;
    for (int64_t j = 0; j < candidates; ++j) {
        std::vector<int64_t> points(candidates);
        std::iota(points.begin(), points.end(), 0);
        std::shuffle(points.begin(), points.end(), engine);
        indices.insert(indices.end(), points.begin(), points.begin() + neighbors);
        for (int64_t k = 0; k < neighbors; ++k) weights.push_back(static_cast<float>(engine() % 1000) / 1000);
        indptr[j + 1] = static_cast<int64_t>(indices.size());
    }
    const Similarities similar{candidates,    candidates,     static_cast<int64_t>(indices.size()),
                               indptr.data(), indices.data(), weights.data()};
    const Picks picks = facility_location(similar, candidates, no_poll);
    for (size_t k = 1; k < picks.gains.size(); ++k) {
        require(picks.gains[k] <= picks.gains[k - 1], "gains never grow");
    }
}

void test_fold() {
    constexpr int64_t segments = 3, height = 200, width = 300, d = 1024;
    const std::vector<float> entries = random_floats(segments * height * width, 11);
    const auto fold = [&](int threads, Simd path) {
        std::vector<float> phi(segments * d);
        fold_band({entries.data(), segments, height, width, 0}, {5, 2}, d, threads, no_poll, path,
                  phi.data());
        return phi;
    };
    const std::vector<float> expected = fold(1, Simd::portable);
    require(fold(4, Simd::portable) == expected, "a fold does not depend on the number of threads");
    if (simd_path() != Simd::portable)
        require(fold(4, Simd::avx2) == expected, "a fold does not depend on the path");
}

}  // namespace

int main(int, char** arguments) {
    test_store(arguments[1]);
    test_score<int8_t>(Dtype::int8);
    test_score<Half>(Dtype::float16);
    test_score<float>(Dtype::float32);
    test_score<double>(Dtype::float64);
    test_interrupt();
    test_greedy();
    test_fold();
    std::puts("core_test: every law holds");
}
