// The only file that sees Python: checks arrays, releases the interpreter lock, names errors. No arithmetic
// here.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "common/cpu.hpp"
#include "common/error.hpp"
#include "common/parallel.hpp"
#include "fold/fold.hpp"
#include "score/score.hpp"
#include "select/select.hpp"
#include "store/crc32c.hpp"
#include "store/files.hpp"
#include "store/journal.hpp"
#include "store/store.hpp"
#include "store/sumfile.hpp"

#include <fcntl.h>

namespace py = pybind11;

namespace learnalign {
namespace {

const char* python_class(ErrorKind kind) {
    switch (kind) {
        case ErrorKind::array:
            return "ArrayError";
        case ErrorKind::config:
            return "ConfigError";
        case ErrorKind::store:
            return "StoreError";
        case ErrorKind::corrupt:
            return "StoreCorruptError";
    }
    return "LearnAlignError";
}

void raise_in_python(const Error& error) {
    const py::object type = py::module_::import("learnalign.errors").attr(python_class(error.kind()));
    PyErr_SetString(type.ptr(), error.what());
}

// Called without the interpreter lock: takes it, and turns a pending Ctrl-C into KeyboardInterrupt.
void poll_signals() {
    const py::gil_scoped_acquire lock;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

using Doubles = py::array_t<double, py::array::c_style>;

const double* column(const Doubles& array, int64_t rows, const char* name) {
    if (array.ndim() != 1 || array.shape(0) != rows) {
        throw Error(ErrorKind::array, std::string(name) + " must be float64 [" + std::to_string(rows) + "]");
    }
    return array.data();
}

Dtype dtype_named(const std::string& name) {
    if (name == "float16") return Dtype::float16;
    if (name == "int8") return Dtype::int8;
    if (name == "float32") return Dtype::float32;
    throw Error(ErrorKind::store, "a store's dtype must be float16, int8 or float32, found \"" + name + "\"");
}

Dtype dtype_of(const py::array& array) {
    const py::dtype dtype = array.dtype();
    if (dtype.kind() == 'i' && dtype.itemsize() == 1) return Dtype::int8;
    if (dtype.kind() == 'f' && dtype.itemsize() == 2) return Dtype::float16;
    if (dtype.kind() == 'f' && dtype.itemsize() == 4) return Dtype::float32;
    if (dtype.kind() == 'f' && dtype.itemsize() == 8) return Dtype::float64;
    throw Error(ErrorKind::array, "rows must be int8, float16, float32 or float64");
}

RowSource source_of(const std::vector<py::array>& shards) {
    RowSource source{{}, Dtype::float32, 0};
    for (size_t s = 0; s < shards.size(); ++s) {
        const py::array& shard = shards[s];
        if (shard.ndim() != 2 || !(shard.flags() & py::array::c_style)) {
            throw Error(ErrorKind::array,
                        "shard " + std::to_string(s) + " must be a C-contiguous [rows, d] array");
        }
        if (s > 0 && (shard.shape(1) != source.dimension || dtype_of(shard) != source.dtype)) {
            throw Error(ErrorKind::array,
                        "shard " + std::to_string(s) + " differs from shard 0 in dimension or dtype");
        }
        source.dtype = dtype_of(shard);
        source.dimension = shard.shape(1);
        source.shards.push_back({shard.data(), shard.shape(0)});
    }
    return source;
}

int64_t rows_of(const RowSource& source) {
    int64_t rows = 0;
    for (const auto& shard : source.shards) rows += shard.rows;
    return rows;
}

ZeroRows zero_rows_if(bool refused) {
    return refused ? ZeroRows::refused : ZeroRows::scored;
}

Doubles sum_unit_rows_of(const std::vector<py::array>& shards, const Doubles& learnability,
                         bool zero_rows_refused, int threads) {
    const RowSource source = source_of(shards);
    const double* v = column(learnability, rows_of(source), "learnability");
    std::vector<double> total;
    {
        const py::gil_scoped_release unlocked;
        total = sum_unit_rows(source, v, zero_rows_if(zero_rows_refused), threads, poll_signals);
    }
    return Doubles(static_cast<py::ssize_t>(total.size()), total.data());
}

py::tuple score_rows_of(const std::vector<py::array>& shards, const Doubles& learnability,
                        const std::optional<Doubles>& total, int64_t pool, bool zero_rows_refused,
                        int threads) {
    const RowSource source = source_of(shards);
    const int64_t rows = rows_of(source);
    const double* v = column(learnability, rows, "learnability");
    const double* known = total ? column(*total, source.dimension, "total") : nullptr;
    Doubles score(rows), alignment(rows);
    double *score_data = score.mutable_data(), *alignment_data = alignment.mutable_data();
    {
        const py::gil_scoped_release unlocked;
        score_rows(source, v, known, pool, zero_rows_if(zero_rows_refused), threads, poll_signals, score_data,
                   alignment_data);
    }
    return py::make_tuple(score, alignment);
}

py::array_t<int64_t> top_of(const Doubles& score, const Doubles& learnability, int64_t n) {
    const int64_t rows = score.size();
    const double* s = column(score, rows, "score");
    const double* v = column(learnability, rows, "learnability");
    std::vector<int64_t> picked;
    {
        const py::gil_scoped_release unlocked;
        picked = top(s, v, rows, n);
    }
    return py::array_t<int64_t>(static_cast<py::ssize_t>(picked.size()), picked.data());
}

using Floats = py::array_t<float, py::array::c_style>;

void fold_band_of(Floats& phi, const Floats& matrices, int64_t first_row, uint32_t layer, uint64_t seed,
                  int threads) {
    if (phi.ndim() != 2 || matrices.ndim() != 3 || phi.shape(0) != matrices.shape(0)) {
        throw Error(ErrorKind::array,
                    "phi must be float32 [segments, d], matrices [segments, rows, columns]");
    }
    const Band band{matrices.data(), matrices.shape(0), matrices.shape(1), matrices.shape(2), first_row};
    const int64_t dimension = phi.shape(1);
    float* data = phi.mutable_data();
    const py::gil_scoped_release unlocked;
    fold_band(band, {seed, layer}, dimension, threads, poll_signals, simd_path(), data);
}

template <class T>
py::array_t<T> array_of(const std::vector<T>& values) {
    return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

template <class T>
using Column = py::array_t<T, py::array::c_style>;

py::tuple facility_location_of(const Column<int64_t>& indptr, const Column<int64_t>& indices,
                               const Column<float>& weights, int64_t n, int64_t points) {
    if (indptr.ndim() != 1 || indptr.size() < 1 || indices.ndim() != 1 || weights.ndim() != 1 ||
        indices.size() != weights.size() || points < 0) {
        throw Error(ErrorKind::array,
                    "similarities must be indptr [candidates + 1], indices [entries], weights [entries]");
    }
    const Similarities similar{indptr.size() - 1, points,         indices.size(),
                               indptr.data(),     indices.data(), weights.data()};
    Picks picks;
    {
        const py::gil_scoped_release unlocked;
        picks = facility_location(similar, n, poll_signals);
    }
    return py::make_tuple(array_of(picks.rows), array_of(picks.gains));
}

py::list ids_of(const RowTable& table, const std::string& where) {
    py::list ids(table.rows());
    uint64_t begin = 0;
    for (size_t i = 0; i < table.rows(); ++i) {
        PyObject* id = PyUnicode_DecodeUTF8(table.ids.data() + begin,
                                            static_cast<py::ssize_t>(table.id_ends[i] - begin), "strict");
        if (id == nullptr) {
            PyErr_Clear();
            throw Error(ErrorKind::corrupt,
                        where + ": the prompt id of row " + std::to_string(i) + " is not UTF-8");
        }
        PyList_SET_ITEM(ids.ptr(), static_cast<py::ssize_t>(i), id);
        begin = table.id_ends[i];
    }
    return ids;
}

// The index of one shard, cut to what its data file holds.
struct Shard {
    std::string data_path;
    std::string index_path;
    ShardIndex index;
    RowTable missing;  // rows that the data file is too short for
};

Shard read_shard(const std::string& index_path, const std::string& data_path, uint64_t number,
                 uint64_t dimension, const std::string& dtype, uint32_t description_crc) {
    const ShardShape shape{number, dimension, dtype_named(dtype), description_crc};
    const py::gil_scoped_release unlocked;
    Shard shard{data_path, index_path, read_index(File::open(index_path, O_RDONLY), shape), {}};
    const uint64_t data_bytes = data_path.empty() ? 0 : File::open(data_path, O_RDONLY).size();
    shard.missing = shard.index.drop(shard.index.beyond(data_bytes));
    return shard;
}

std::vector<std::pair<uint64_t, uint64_t>> blocks_of(const Shard& shard) {
    std::vector<std::pair<uint64_t, uint64_t>> blocks;
    for (const Block& block : shard.index.blocks) blocks.emplace_back(block.place.first, block.place.end);
    return blocks;
}

std::vector<std::pair<uint64_t, uint64_t>> holes_of(const Shard& shard) {
    std::vector<std::pair<uint64_t, uint64_t>> holes;
    for (const RowRange& hole : shard.index.holes()) holes.emplace_back(hole.first, hole.end);
    return holes;
}

std::vector<std::pair<uint64_t, uint64_t>> bad_bytes_of(const Shard& shard) {
    std::vector<std::pair<uint64_t, uint64_t>> ranges;
    for (const ShardIndex::BadBytes& bad : shard.index.bad) ranges.emplace_back(bad.begin, bad.end);
    return ranges;
}

std::optional<Doubles> total_of(const Shard& shard, const std::string& sum_path) {
    if (!shard.index.closed) return std::nullopt;
    const auto total = read_sum(sum_path, shard.index.shape.dimension, shard.index.digest);
    if (!total) return std::nullopt;
    return array_of(*total);
}

std::vector<size_t> damage_of(const Shard& shard) {
    if (shard.index.blocks.empty()) return {};
    const py::gil_scoped_release unlocked;
    return damaged_blocks(File::open(shard.data_path, O_RDONLY), shard.index, 0, poll_signals);
}

void append_to(StoreWriter& writer, const std::vector<std::string>& ids, const Doubles& success_rate,
               const py::array_t<float, py::array::c_style>& phi, int64_t dimension) {
    const auto rows = static_cast<int64_t>(ids.size());
    const double* p = column(success_rate, rows, "success_rate");
    if (phi.ndim() != 2 || phi.shape(0) != rows || phi.shape(1) != dimension) {
        throw Error(ErrorKind::array,
                    "phi must be float32 [" + std::to_string(rows) + ", " + std::to_string(dimension) + "]");
    }
    const float* data = phi.data();
    const py::gil_scoped_release unlocked;
    writer.append(ids, p, data, poll_signals);
}

// A StoreWriter whose destructor, which may wait for the disk, runs without the interpreter lock.
struct Writer {
    StoreWriter core;
    int64_t dimension;

    Writer(const std::string& directory, int descriptor, const ShardShape& shape, uint64_t queue_bytes,
           Verify verify)
        : core(directory, descriptor, shape, queue_bytes, verify, poll_signals),
          dimension(static_cast<int64_t>(shape.dimension)) {}
    ~Writer() {
        const py::gil_scoped_release unlocked;
        core.stop();
    }
};

std::unique_ptr<Writer> open_writer(const std::string& directory, int descriptor, uint64_t shard,
                                    uint64_t dimension, const std::string& dtype, uint32_t description_crc,
                                    uint64_t queue_bytes, bool verify_everything) {
    const ShardShape shape{shard, dimension, dtype_named(dtype), description_crc};
    const py::gil_scoped_release unlocked;
    return std::make_unique<Writer>(directory, descriptor, shape, queue_bytes,
                                    verify_everything ? Verify::everything : Verify::recent);
}

void bind_store(py::module_& m) {
    py::class_<Writer>(m, "StoreWriter")
        .def(py::init(&open_writer), py::arg("directory"), py::arg("index_descriptor"), py::arg("shard"),
             py::arg("dimension"), py::arg("dtype"), py::arg("description_crc"), py::arg("queue_bytes"),
             py::arg("verify_everything"))
        .def(
            "append",
            [](Writer& self, const std::vector<std::string>& ids, const Doubles& success_rate,
               const py::array_t<float, py::array::c_style>& phi) {
                append_to(self.core, ids, success_rate, phi, self.dimension);
            },
            py::arg("prompt_ids"), py::arg("success_rate").noconvert(), py::arg("phi").noconvert())
        .def(
            "flush", [](Writer& self) { self.core.flush(poll_signals); },
            py::call_guard<py::gil_scoped_release>())
        .def(
            "close", [](Writer& self) { self.core.close(poll_signals); },
            py::call_guard<py::gil_scoped_release>())
        .def(
            "stop", [](Writer& self) { self.core.stop(); }, py::call_guard<py::gil_scoped_release>())
        .def_property_readonly("committed_rows", [](Writer& self) { return self.core.committed_rows(); });

    py::class_<Shard>(m, "Shard")
        .def(py::init(&read_shard), py::arg("index_path"), py::arg("data_path"), py::arg("shard"),
             py::arg("dimension"), py::arg("dtype"), py::arg("description_crc"))
        .def_property_readonly("rows", [](const Shard& self) { return self.index.rows(); })
        .def_property_readonly("end_row", [](const Shard& self) { return self.index.end_row(); })
        .def_property_readonly("closed", [](const Shard& self) { return self.index.closed; })
        .def_property_readonly("header_valid", [](const Shard& self) { return self.index.header_valid; })
        .def_property_readonly("file_bytes", [](const Shard& self) { return self.index.file_bytes; })
        .def_property_readonly("blocks", &blocks_of)
        .def_property_readonly("holes", &holes_of)
        .def_property_readonly("bad_bytes", &bad_bytes_of)
        .def("prompt_ids", [](const Shard& self) { return ids_of(self.index.table, self.index_path); })
        .def("missing_ids", [](const Shard& self) { return ids_of(self.missing, self.index_path); })
        .def("success_rate", [](const Shard& self) { return array_of(self.index.table.success_rate); })
        .def("norm", [](const Shard& self) { return array_of(self.index.table.norm); })
        .def("scale", [](const Shard& self) { return array_of(self.index.table.scale); })
        .def("total", &total_of, py::arg("sum_path"))
        .def("damaged_blocks", &damage_of);

    m.def("data_header", [](uint64_t rows, uint64_t dimension, const std::string& dtype) {
        return py::bytes(data_header(rows, dimension, dtype_named(dtype)));
    });
    m.def("crc32c", [](const py::bytes& bytes) {
        const std::string_view view(bytes);
        return crc32c(view.data(), view.size());
    });
}

}  // namespace
}  // namespace learnalign

PYBIND11_MODULE(_core, m) {
    using namespace learnalign;
    m.doc() = "The native core of learnalign: use learnalign.store, learnalign.score and learnalign.select.";
    py::register_exception_translator([](std::exception_ptr failure) {
        try {
            if (failure) std::rethrow_exception(failure);
        } catch (const Error& error) {
            raise_in_python(error);
        }
    });
    m.def("simd", [] { return simd_name(simd_path()); });
    m.def("score_rows", &score_rows_of, py::arg("shards"), py::arg("learnability").noconvert(),
          py::arg("total").noconvert(), py::arg("pool_size"), py::arg("zero_rows_refused"),
          py::arg("threads"));
    m.def("sum_unit_rows", &sum_unit_rows_of, py::arg("shards"), py::arg("learnability").noconvert(),
          py::arg("zero_rows_refused"), py::arg("threads"));
    m.def("top", &top_of, py::arg("score").noconvert(), py::arg("learnability").noconvert(), py::arg("n"));
    m.def("fold_band", &fold_band_of, py::arg("phi").noconvert(), py::arg("matrices").noconvert(),
          py::kw_only(), py::arg("first_row"), py::arg("layer"), py::arg("seed"), py::arg("threads"));
    m.def("facility_location", &facility_location_of, py::arg("indptr").noconvert(),
          py::arg("indices").noconvert(), py::arg("weights").noconvert(), py::arg("n"), py::arg("points"));
    bind_store(m);
}
